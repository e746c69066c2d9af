#!/usr/bin/python
"""Write an image's bill of materials, from what the image itself says of its packages; nothing in it is run."""

import email.parser
import json
import os
import re
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: image_bill
short_description: Write a CycloneDX bill of materials of an image's Debian and Python packages
options:
  image: {description: The image, as Docker here knows it., type: str, required: true}
  repository: {description: Where it is pulled from., type: str, required: true}
  digest: {description: "Its digest there, sha256:….", type: str, required: true}
  docker: {description: The docker command., type: str, required: true}
  path: {description: The file to write; one that is there is left alone., type: path, required: true}
"""
STATUS = "var/lib/dpkg/status"
RELEASE = "usr/lib/os-release"
METADATA = re.compile(r"\.dist-info/METADATA$")
Component = dict[str, Any]


def main() -> None:
    """Write the file unless it is there: what a digest names never changes."""
    options = {name: {"type": "str", "required": True} for name in ("image", "repository", "digest", "docker")}
    module = AnsibleModule(
        argument_spec={**options, "path": {"type": "path", "required": True}}, supports_check_mode=True
    )
    asked = module.params
    path = Path(asked["path"])
    if path.exists() or module.check_mode:
        module.exit_json(changed=not path.exists())
    try:
        components = read(asked["docker"], asked["image"])
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"{asked['image']} could not be read: {error.stderr}")
    if not {"deb", "pypi"} <= {component["purl"][4:].split("/")[0] for component in components}:
        module.fail_json(msg=f"{asked['image']} does not say which Debian and Python packages it holds")
    write(path, bill(asked["repository"], asked["digest"], components))
    module.exit_json(changed=True)


def read(docker: str, image: str) -> list[Component]:
    """Return the components of an image, through a container that is never started."""
    container = ask(docker, "create", "--network", "none", image)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "files.tar"
        try:
            ask(docker, "export", "--output", str(archive), container)
        finally:
            ask(docker, "rm", container)
        return list(components_of(archive))


def ask(*command: str) -> str:
    """Return what a command says."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def components_of(archive: Path) -> Iterator[Component]:
    """Return the packages in a file system, an archive of tar's, in the order of their names."""
    texts = {}
    with tarfile.open(archive) as files:
        for member in files:
            is_wanted = member.name in (STATUS, RELEASE) or METADATA.search(member.name)
            if is_wanted and (content := files.extractfile(member)):
                texts[member.name] = content.read().decode()
    system = dict(re.findall(r'(?m)^(\w+)="?([^"\n]*)', texts.pop(RELEASE, "")))
    distribution = f"{system.get('ID', 'debian')}-{system.get('VERSION_ID', 'unknown')}"
    debian = [headers(text) for text in texts.pop(STATUS, "").split("\n\n") if text.strip()]
    for package in sorted(debian, key=lambda package: str(package["Package"])):
        if package["Status"] == "install ok installed":
            yield debian_component(package, distribution)
    for package in sorted(map(headers, texts.values()), key=lambda package: normal(package["Name"])):
        yield python_component(package)


def headers(text: str) -> Message:
    """Return the fields of a package's description; Debian and Python both write them as a mail has them."""
    return email.parser.Parser().parsestr(text, headersonly=True)


def debian_component(package: Message, distribution: str) -> Component:
    """Return a Debian package; advisories speak of its source package, which is therefore named."""
    name, version = str(package["Package"]), str(package["Version"])
    source, _, source_version = str(package.get("Source", name)).partition(" ")
    upstream = f"{source}@{source_version.strip('()') or version}"
    purl = (
        f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}"
        f"?arch={package['Architecture']}&distro={distribution}&upstream={quote(upstream, safe='')}"
    )
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def python_component(package: Message) -> Component:
    """Return a Python package, with its licence where it is stated as an expression."""
    version = str(package["Version"])
    purl = f"pkg:pypi/{normal(package['Name'])}@{quote(version, safe='')}"
    licence = package.get("License-Expression")
    stated = {"licenses": [{"expression": str(licence)}]} if licence else {}
    return {
        "type": "library",
        "bom-ref": purl,
        "name": normal(package["Name"]),
        "version": version,
        "purl": purl,
        **stated,
    }


def normal(name: object) -> str:
    """Return the name of a Python package as indexes write it."""
    return re.sub(r"[-_.]+", "-", str(name)).lower()


def bill(repository: str, digest: str, components: list[Component]) -> dict[str, Any]:
    """Return the bill of materials; it is the same whenever and wherever it is written."""
    name = repository.rsplit("/", 1)[-1]
    purl = f"pkg:oci/{quote(name, safe='')}@{quote(digest, safe='')}?repository_url={quote(repository, safe='')}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, purl)}",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "bom-ref": purl, "name": repository, "version": digest, "purl": purl}
        },
        "components": components,
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    handle, part = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
    Path(part).chmod(0o644)
    Path(part).replace(path)


if __name__ == "__main__":
    main()
