#!/usr/bin/python
"""Have the files of one model on a host: fetched or copied, converted if declared, whole, and known by their sums."""

import fcntl
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlx_files import damage, identity_of
from ansible.module_utils.mlx_making import CURRENT, Model, ModelError, version_of

DOCUMENTATION = """
module: mlx_model
short_description: Make, check and switch the files of one model
description: >-
  A model is made in a staging folder, which is renamed when it is whole; its manifest, written last, is what says so.
  The folder is named after what the model was made of, so that another declaration makes another folder beside it.
  Which of them is served is the link `current`, which `switched` changes, and nothing else.
options:
  state:
    description: >-
      `described`, know what a folder (`source`) holds; `look`, know whether the model is there and whole; `present`,
      make it where it is not; `switched`, have `current` lead to it; `tidied`, have no more than `keep` former ones.
    type: str
    choices: [described, look, present, switched, tidied]
    required: true
  folder: {description: The folder of this model., type: path}
  source: {description: "repository and revision; folder, with `identity` for its content; or random.", type: dict}
  quantise: {description: "mode, bits, group_size; empty, it stays as it is.", type: dict, default: {}}
  version: {description: The version of the converter., type: str, default: ''}
  sha256: {description: The sum that the files of the source must have; empty for any., type: str, default: ''}
  memory_bytes: {description: So large its files may be; 0 for any., type: int, default: 0}
  verify: {description: Whether files are read even if size and time are the known ones., type: bool, default: false}
  python: {description: The Python of the environment of MLX., type: path}
  tools: {description: The folder with the programs that fetch and make models., type: path}
  environment: {description: The environment of these programs., type: dict, default: {}}
  user: {description: In whose name they run., type: str, default: ''}
  key: {description: The name of the folder to switch to; empty for the one declared., type: str, default: ''}
  keep: {description: So many former ones are kept., type: int, default: 1}
  peers:
    description: "Hosts that may have it: `url`, and of the model there `key` and `sha256`, as that host itself said."
    type: list
    elements: dict
    default: []
"""


def look(model, verify):
    """Return the manifest, nothing if the model has to be made, and what is damaged."""
    known = model.manifest()
    damaged = list(damage(model.target, known["files"], verify)) if known else []
    return known, damaged


def refuse_other_sum(model, known):
    declared = model.params["sha256"]
    if known and declared not in ("", known["source_sha256"]):
        raise ModelError(
            f"sha256 is {declared}, and the model that is there was made of files that have {known['source_sha256']}."
            " It was left as it is: correct the one, or the source."
        )


def have(module, model):
    """Have the model whole; return what is known of it."""
    known, damaged = look(model, model.params["verify"])
    refuse_other_sum(model, known)
    is_to_make = bool(damaged) or not known
    if is_to_make and not module.check_mode:
        model.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (model.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ModelError(
                    "another run makes it, or what a run that was cut off has left running. Wait until that is done, or"
                    f" end it: fuser {lock.name}"
                ) from None
            known = model.make(lock)
    return {
        "changed": is_to_make,
        "damaged": damaged,
        "copied_from": model.origin,
        "not_copied": model.refusals,
        **model.result(known),
    }


def switch(module, model):
    """Have `current` lead to the model's folder, in one step."""
    former = model.current()
    changed = former != model.key
    known_of_former = Model({**model.params, "key": former}).manifest() if former else {}
    if changed and not module.check_mode:
        if not model.manifest():
            raise ModelError(f"{model.target} is not whole, and cannot be served.")
        part = model.folder / f".{CURRENT}.part"
        part.unlink(missing_ok=True)
        part.symlink_to(model.key)
        part.replace(model.folder / CURRENT)
    return {
        "changed": changed,
        "former": {"key": former, "version": version_of(known_of_former)},
        **model.result(model.manifest()),
    }


def tidy(module, model):
    """Have no more than `keep` former models beside the one that is served, and nothing that was cut off."""
    served = model.current()
    if not served:
        return {"changed": False, "removed": []}
    not_former = (served, CURRENT)
    former = [path for path in model.folder.glob("[!.]*") if path.is_dir() and path.name not in not_former]
    former.sort(key=lambda path: path.stat().st_ctime)
    too_many = former[: max(0, len(former) - model.params["keep"])]
    cut_off = [path for path in model.folder.glob(".*") if path.is_dir()]
    if not module.check_mode:
        for path in [*too_many, *cut_off]:
            (model.folder / f"{path.name}.json").unlink(missing_ok=True)
            shutil.rmtree(path)
    removed = [str(path) for path in [*too_many, *cut_off]]
    return {"changed": bool(removed), "removed": removed}


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["described", "look", "present", "switched", "tidied"],
                "required": True,
            },
            "folder": {"type": "path"},
            "source": {"type": "dict"},
            "quantise": {"type": "dict", "default": {}},
            "version": {"type": "str", "default": ""},
            "sha256": {"type": "str", "default": ""},
            "memory_bytes": {"type": "int", "default": 0},
            "verify": {"type": "bool", "default": False},
            "python": {"type": "path"},
            "tools": {"type": "path"},
            "environment": {"type": "dict", "default": {}},
            "user": {"type": "str", "default": ""},
            "key": {"type": "str", "default": "", "no_log": False},
            "keep": {"type": "int", "default": 1},
            "peers": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        if params["state"] == "described":
            folder = Path(params["source"]["folder"])
            is_model = (folder / "config.json").is_file()
            module.exit_json(changed=False, identity=identity_of(folder) if is_model else "")
        model = Model(params)
        if params["state"] == "look":
            known, damaged = look(model, params["verify"])
            refuse_other_sum(model, known)
            module.exit_json(changed=False, whole=bool(known) and not damaged, damaged=damaged, **model.result(known))
        module.exit_json(**{"present": have, "switched": switch, "tidied": tidy}[params["state"]](module, model))
    except ModelError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
