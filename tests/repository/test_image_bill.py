"""What the role `container_image` reads out of an image's files, and what it takes for the image's content."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from loading import ROOT, load

DPKG = """\
Package: libc6
Status: install ok installed
Architecture: arm64
Source: glibc
Version: 2.41-12

Package: libstdc++6
Status: install ok installed
Architecture: arm64
Source: gcc-14 (14.2.0-19)
Version: 1:14.2.0-19+b1
Description: a library
 with a second line

Package: gone
Status: deinstall ok config-files
Architecture: arm64
Version: 1
"""
FILES = {
    "var/lib/dpkg/status": DPKG,
    "usr/lib/os-release": 'NAME="Debian"\nVERSION_ID="13"\nID=debian\n',
    "opt/athena/lib/python3.13/site-packages/Some_Thing-1.0.dist-info/METADATA": (
        "Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.0+local\nLicense-Expression: MIT\n\nName: not this\n"
    ),
}


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("image") / "files.tar"
    with tarfile.open(path, "w") as archive:
        for name, text in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return {
        component["name"]: component
        for component in load("roles/container_image/library/image_bill.py").components_of(path)
    }


def test_debian_packages_name_their_source_and_release(components: dict[str, dict[str, Any]]) -> None:
    purl = "pkg:deb/debian/libc6@2.41-12?arch=arm64&distro=debian-13&upstream=glibc%402.41-12"
    assert components["libc6"] == {
        "type": "library", "bom-ref": purl, "name": "libc6", "version": "2.41-12", "purl": purl
    }  # fmt: skip


def test_names_and_versions_are_escaped_as_package_urls_are(components: dict[str, dict[str, Any]]) -> None:
    assert components["libstdc++6"]["purl"].startswith("pkg:deb/debian/libstdc%2B%2B6@1%3A14.2.0-19%2Bb1?")
    assert components["libstdc++6"]["purl"].endswith("upstream=gcc-14%4014.2.0-19")


def test_python_packages_have_the_name_of_an_index_and_their_licence(components: dict[str, dict[str, Any]]) -> None:
    assert components["some-thing"]["purl"] == "pkg:pypi/some-thing@1.0%2Blocal"
    assert components["some-thing"]["licenses"] == [{"expression": "MIT"}]


def test_a_package_that_was_removed_is_not_listed(components: dict[str, dict[str, Any]]) -> None:
    assert sorted(components) == ["libc6", "libstdc++6", "some-thing"]


def test_what_the_image_is_made_of_is_what_the_dockerfile_copies() -> None:
    service = ROOT / "service"
    context = load("roles/container_image/library/image_context.py")
    copied = {path.relative_to(service).parts[0] for path in context.sources(service)}
    copies = [
        line.split()[1:-1] for line in (service / "Dockerfile").read_text().splitlines() if line.startswith("COPY")
    ]
    wanted = {name for names in copies for name in names if (service / name).exists() and not name.startswith("/")}
    assert copied - {".dockerignore", "Dockerfile"} == wanted


def test_settings_of_the_build_decide_nothing(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("*\n!src\n!pip.conf\n")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "src" / "__pycache__").mkdir(parents=True)
    (tmp_path / "src" / "module.py").write_text("")
    context = load("roles/container_image/library/image_context.py")

    def content() -> Any:
        return context.digest(tmp_path, list(context.sources(tmp_path)), {"base": "sha256:1"})

    before = content()
    (tmp_path / "pip.conf").write_text("[global]\n")
    (tmp_path / "src" / "__pycache__" / "module.pyc").write_text("")
    assert content() == before
    (tmp_path / "src" / "module.py").chmod(0o755)
    assert content() != before
