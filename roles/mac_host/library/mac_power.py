#!/usr/bin/python
"""Have a Mac's power settings as declared: only what differs is set."""

import subprocess
from difflib import get_close_matches

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: mac_power
short_description: Have settings of pmset as declared
options:
  settings:
    description: Numbers by the names that `pmset -g custom` has; what is not named is left alone.
    type: dict
    required: true
"""


class PowerError(Exception):
    """What went wrong, in words for a person."""


def parse(printed):
    """Return the settings of each power source that `pmset -g custom` prints, such as {'AC Power': {'sleep': '1'}}."""
    sources = {}
    for line in printed.splitlines():
        if line.strip() and not line[0].isspace():
            source = sources.setdefault(line.strip().rstrip(":"), {})
        elif line.strip():
            name, _, value = line.strip().rpartition(" ")
            source[name.strip()] = value
    return sources


def judge(settings, sources):
    """Refuse what this Mac does not know."""
    known = sorted({name for source in sources.values() for name in source})
    for name, value in settings.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise PowerError(
                f"mac_host_power: this Mac has no setting {name}{f', but {near[0]}' if near else ''}. Nothing was"
                f" changed. Leave it out; it has {', '.join(known)}"
            )
        if not str(value).isdigit():
            raise PowerError(f"mac_host_power: {name} must be a number, 0 for off or never; it is {value}")


def differing(settings, sources):
    """Return the settings that are not as declared, and what they are: of several sources the first that differs."""
    old = {}
    for name, value in settings.items():
        for source in sources.values():
            if name in source and source[name] != str(value):
                old.setdefault(name, source[name])
    return {name: str(settings[name]) for name in old}, old


def call(command):
    """Return what pmset prints."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = (ended.stderr + ended.stdout).strip()
        raise PowerError(f"`{' '.join(command)}` ended with {ended.returncode}: {said}")
    return ended.stdout


def have(pmset, settings, is_check):
    """Have the settings; return those that were set, and what they were."""
    sources = parse(call([pmset, "-g", "custom"]))
    judge(settings, sources)
    new, old = differing(settings, sources)
    if new and not is_check:
        call([pmset, "-a", *(word for pair in new.items() for word in pair)])
        left, _ = differing(settings, parse(call([pmset, "-g", "custom"])))
        if left:
            raise PowerError(f"mac_host_power: pmset took {', '.join(left)} and did not set it. Leave it out")
    return new, old


def lines(settings):
    """Return settings as a file would have them, for a difference."""
    return "".join(f"{name} {value}\n" for name, value in sorted(settings.items()))


def main():
    module = AnsibleModule(argument_spec={"settings": {"type": "dict", "required": True}}, supports_check_mode=True)
    settings = module.params["settings"]
    try:
        new, old = have(module.get_bin_path("pmset", required=True, opt_dirs=["/usr/bin"]), settings, module.check_mode)
    except PowerError as error:
        module.fail_json(msg=f"{error}.")
    difference = {"before_header": "pmset", "after_header": "pmset", "before": lines(old), "after": lines(new)}
    module.exit_json(changed=bool(new), set=new, diff=difference if new else {})


if __name__ == "__main__":
    main()
