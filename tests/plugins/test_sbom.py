"""`pybuild sbom`: what databases tell, and documents that are valid by the makers of the formats."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pybuild.plugin import fetch_artifact, list_artifacts
from pybuild_sbom import dpkg, npm, python
from pybuild_sbom.licences import licence
from pybuild_sbom.model import Files
from support import registry, rpmdb
from support.here import Here
from support.program import Pybuild

OS_RELEASE = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12"\nHOME_URL="https://www.debian.org/"\n'

STATUS = """\
Package: libone
Status: install ok installed
Maintainer: Debian One Team <one@lists.example>
Architecture: amd64
Source: one (1.0-1)
Version: 1.0-1+b1
Description: the first
 and its long description
Homepage: https://one.example

Package: two
Status: deinstall ok config-files
Architecture: all
Version: 2

Package: three
Status: install ok installed
Maintainer: A Person <a@example.org>
Architecture: all
Version: 3:3.0~rc1
Description: the third
"""

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+ or Artistic
 more of it

Files: debian/*
License: Expat

License: Expat
 Permission is hereby granted
"""

APK = """\
C:Q1p78yvTLG094tHE1+dToJGbmYzQE=
P:musl
V:1.2.5-r0
A:x86_64
T:the musl c library
U:https://musl.libc.org/
L:MIT
o:musl
m:Timo <timo@example.org>
F:lib
R:ld-musl.so.1
a:0:0:755

P:ssl_client
V:1.36.1-r29
A:x86_64
L:GPL-2.0-only
o:busybox
"""

BASH = {"name": "bash", "version": "5.2.26", "release": "3.fc40", "epoch": 1, "summary": "A shell", "arch": "x86_64"}
BASH |= {
    "license": "GPLv3+",
    "vendor": "Fedora Project",
    "url": "https://gnu.example/bash",
    "sourcerpm": "bash.src.rpm",
}
KEY = {"name": "gpg-pubkey", "version": "a15b79cc", "release": "1"}

METADATA = """\
Metadata-Version: 2.1
Name: Flask_Thing
Version: 3.0
Summary: A thing
Author-email: Pallets <contact@example.org>
Project-URL: Homepage, https://thing.example
License: BSD-3-Clause
Classifier: License :: OSI Approved :: BSD License

License: this is the description
"""


def files(root: Path, content: dict[str, str | bytes]) -> Path:
    for path, text in content.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


Image = Callable[[dict[str, str | bytes]], None]


@pytest.fixture
def image(here: Here, tmp_path: Path) -> Image:
    """Makes the image `app` of files."""

    def make(content: dict[str, str | bytes]) -> None:
        root = files(tmp_path / "root", content)
        here("build", "-q", "-t", "app", "-f", "-", root, stdin=b"FROM scratch\nCOPY . /\n")

    return make


def names(here: Here, *words: str) -> dict[str, dict[str, Any]]:
    """Return the packages of `app` by their purls, as SPDX has them."""
    rows = json.loads(here("sbom", "app", *words).text)["packages"]
    return {row["externalRefs"][0]["referenceLocator"]: row for row in rows if "externalRefs" in row}


def test_debian_packages(here: Here, image: Image) -> None:
    image(
        {
            "etc/os-release": OS_RELEASE,
            "var/lib/dpkg/status": STATUS,
            "usr/share/doc/libone/copyright": COPYRIGHT,
            "usr/share/doc/three/copyright": "On Debian systems see /usr/share/common-licenses/GPL-2.\n",
        }
    )
    found = names(here)
    assert [*found] == [
        "pkg:deb/debian/libone@1.0-1%2Bb1?arch=amd64&distro=debian-12&upstream=one%401.0-1",
        "pkg:deb/debian/three@3:3.0~rc1?arch=all&distro=debian-12",
    ]
    one, three = found.values()
    assert one["licenseDeclared"] == "(GPL-2.0-or-later OR Artistic-1.0-Perl) AND MIT"
    assert one["supplier"] == "Organization: Debian One Team (one@lists.example)"
    assert (one["homepage"], one["summary"]) == ("https://one.example", "the first")
    assert one["sourceInfo"].startswith("/var/lib/dpkg/status in layer sha256:")
    assert three["licenseDeclared"] == "GPL-2.0-only"
    assert three["supplier"] == "Person: A Person (a@example.org)"


def test_distroless_images_have_a_file_for_each_package(here: Here, image: Image) -> None:
    text = "Package: base-files\nVersion: 12.4\nArchitecture: amd64\nMaintainer: Santiago <s@example.org>\n"
    image({"var/lib/dpkg/status.d/base": text, "var/lib/dpkg/status.d/base.md5sums": "Package: no\nVersion: 1\n"})
    assert [*names(here)] == ["pkg:deb/debian/base-files@12.4?arch=amd64"]


def test_alpine_packages(here: Here, image: Image) -> None:
    image({"usr/lib/os-release": "ID=alpine\nVERSION_ID=3.20.0\n", "lib/apk/db/installed": APK})
    found = names(here)
    assert [*found] == [
        "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20.0",
        "pkg:apk/alpine/ssl_client@1.36.1-r29?arch=x86_64&distro=alpine-3.20.0&upstream=busybox",
    ]
    assert found.popitem()[1]["licenseDeclared"] == "GPL-2.0-only"
    assert "apk:control:sha1: a7bf32bd32c6d3de2d1c4d7e753a0919b998cd01" in found.popitem()[1]["comment"]


@pytest.mark.parametrize(
    ("place", "write"),
    [("var/lib/rpm/rpmdb.sqlite", rpmdb.write_sqlite), ("usr/lib/sysimage/rpm/Packages.db", rpmdb.write_ndb)],
)
def test_packages_of_rpm(here: Here, image: Image, tmp_path: Path, place: str, write: Any) -> None:
    write(tmp_path / "database", [BASH, KEY])
    data = (tmp_path / "database").read_bytes()
    image({"etc/os-release": "ID=fedora\nVERSION_ID=40\n", place: data})
    found = names(here)
    purl = "pkg:rpm/fedora/bash@5.2.26-3.fc40?arch=x86_64&distro=fedora-40&epoch=1&upstream=bash.src.rpm"
    assert [*found] == [purl]
    assert found[purl]["licenseDeclared"] == "GPL-3.0-or-later"
    assert found[purl]["supplier"] == "Organization: Fedora Project"


@pytest.mark.parametrize("place", ["var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/Packages.db"])
def test_a_database_of_rpm_that_is_damaged_is_told_and_can_be_left_out(here: Here, image: Image, place: str) -> None:
    image({place: b"SQLite format 3\0 and then nothing", "lib/apk/db/installed": APK})
    told = here("sbom", "app", status=1).err
    assert told.startswith(f"error: the database of rpm cannot be read: /{place}: ")
    assert told.endswith("hint: `--skip rpm` leaves it out\n")
    assert len(names(here, "--skip", "rpm")) == 2


def test_a_database_of_rpm_of_old_is_told(here: Here, image: Image) -> None:
    image({"var/lib/rpm/Packages": b"\0" * 100})
    told = here("sbom", "app", status=1).err
    assert "is one of Berkeley DB, which cannot be read: /var/lib/rpm/Packages" in told


@pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpm's own programs are not installed")
def test_what_rpm_itself_has_written(here: Here, image: Image, tmp_path: Path) -> None:
    spec = "Name: thing\nVersion: 1.5\nRelease: 2\nEpoch: 4\nSummary: It\nLicense: ASL 2.0\nVendor: The Vendor\n"
    (tmp_path / "thing.spec").write_text(f"{spec}BuildArch: noarch\n%description\nIt.\n%files\n")
    define = ["--define", f"_topdir {tmp_path}/top", "--define", f"_tmppath {tmp_path}"]
    run = {"check": True, "capture_output": True, "env": {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}}
    subprocess.run(["rpmbuild", "-bb", *define, str(tmp_path / "thing.spec")], **run)
    [made] = (tmp_path / "top").rglob("*.rpm")
    base = ["rpm", "--dbpath", str(tmp_path / "db"), "--define", "_db_backend sqlite"]
    subprocess.run([*base, "--initdb"], **run)
    subprocess.run([*base, "-i", "--justdb", "--nodeps", "--ignorearch", "--ignoreos", str(made)], **run)
    image({"var/lib/rpm/rpmdb.sqlite": (tmp_path / "db/rpmdb.sqlite").read_bytes()})
    [(purl, row)] = names(here).items()
    assert purl == "pkg:rpm/thing@1.5-2?arch=noarch&epoch=4&upstream=thing-1.5-2.src.rpm"
    assert (row["licenseDeclared"], row["supplier"]) == ("Apache-2.0", "Organization: The Vendor")


def test_python_distributions(here: Here, image: Image) -> None:
    site = "usr/lib/python3/site-packages"
    record = "thing.py,sha256=LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564,3\ngone.py,sha256=abc,3\nthing.pyc,,\n"
    direct = {"url": "https://x.example/t.whl", "archive_info": {"hashes": {"sha256": "ab" * 32}}}
    image(
        {
            f"{site}/Flask_Thing-3.0.dist-info/METADATA": METADATA,
            f"{site}/Flask_Thing-3.0.dist-info/RECORD": record,
            f"{site}/Flask_Thing-3.0.dist-info/direct_url.json": json.dumps(direct),
            f"{site}/thing.py": "changed",
            f"{site}/old-1.egg-info": "Metadata-Version: 1.0\nName: old\nVersion: 1\nLicense: UNKNOWN\n",
            "venv/lib/python3/site-packages/new.egg-info/PKG-INFO": "Name: new\nVersion: 2\nLicense-Expression: MIT\n",
        }
    )
    found = names(here)
    assert [*found] == ["pkg:pypi/flask-thing@3.0", "pkg:pypi/new@2", "pkg:pypi/old@1"]
    thing = found["pkg:pypi/flask-thing@3.0"]
    assert thing["licenseDeclared"] == "BSD-3-Clause"
    assert thing["checksums"] == [{"algorithm": "SHA256", "checksumValue": "ab" * 32}]
    assert thing["comment"] == "python:changed: 1 changed, 1 gone"
    assert found["pkg:pypi/old@1"]["licenseDeclared"] == "NOASSERTION"


def test_packages_of_npm(here: Here, image: Image) -> None:
    lock = {
        "lockfileVersion": 3,
        "packages": {
            "": {"name": "app", "version": "1.0.0"},
            "node_modules/left-pad": {
                "version": "1.3.0",
                "resolved": "https://npm.example/left-pad/-/left-pad-1.3.0.tgz",
                "integrity": "sha1-W9FDI6lYFC7Q/6kx/6mYYKDfHN4= sha512-" + "A" * 86 + "==",
            },
            "node_modules/for-tests": {"version": "9.0.0", "dev": True},
        },
    }
    image(
        {
            "app/node_modules/left-pad/package.json": '{"name": "left-pad", "version": "1.3.0", "license": "WTFPL"}',
            "app/node_modules/@types/node/package.json": '{"name": "@types/node", "version": "20.1.0"}',
            "app/node_modules/@types/node/test/package.json": '{"name": "a-test", "version": "0"}',
            "app/node_modules/broken/package.json": "[" * 100_000,
            "app/node_modules/.package-lock.json": json.dumps(lock),
            "app/package-lock.json": json.dumps(lock),
            "bundled/package-lock.json": json.dumps(lock),
        }
    )
    found = names(here)
    assert [*found] == ["pkg:npm/%40types/node@20.1.0", "pkg:npm/left-pad@1.3.0"]
    pad = found["pkg:npm/left-pad@1.3.0"]
    assert pad["downloadLocation"] == "https://npm.example/left-pad/-/left-pad-1.3.0.tgz"
    assert pad["checksums"] == [{"algorithm": "SHA512", "checksumValue": "00" * 64}]
    # Of what was bundled nothing lies beside its lock file
    assert "/bundled/package-lock.json in layer" in pad["sourceInfo"]
    assert "/app/node_modules/left-pad/package.json in layer" in pad["sourceInfo"]


def test_only_what_is_in_the_final_tree_counts(here: Here, tmp_path: Path) -> None:
    root = files(tmp_path / "root", {"old": APK, "new": APK.split("\n\n")[1]})
    text = b"FROM scratch\nCOPY old /lib/apk/db/installed\nCOPY new /lib/apk/db/installed\n"
    here("build", "-q", "-t", "app", "-f", "-", root, stdin=text)
    assert [*names(here)] == ["pkg:apk/alpine/ssl_client@1.36.1-r29?arch=x86_64&upstream=busybox"]


@pytest.mark.userns
def test_what_a_step_removes_is_no_more(base: Pybuild, context: Path) -> None:
    files(context, {"lib/apk/db/installed": APK, "srv/status.d/a": "Package: a\nVersion: 1\n"})
    base.build(context, "-t", "app", dockerfile="FROM base\nCOPY . /\nCOPY srv /var/lib/dpkg\nRUN rm -r /lib/apk\n")
    rows = base.json("sbom", "app")["packages"]
    assert [row["name"] for row in rows] == ["app", "a"]


EVERYTHING: dict[str, str | bytes] = {
    "etc/os-release": OS_RELEASE,
    "var/lib/dpkg/status": STATUS,
    "usr/share/doc/libone/copyright": COPYRIGHT + "\nFiles: x\nLicense: public-domain\n",
    "lib/apk/db/installed": APK,
    "site/Flask_Thing-3.0.dist-info/METADATA": METADATA,
    "node_modules/é/package.json": '{"name": "é", "version": "1 0", "license": "SEE LICENSE IN x", "author": "É <e>"}',
    "node_modules/odd/package.json": json.dumps({"name": "odd", "version": "\x1b[1m", "homepage": "http://not a url"}),
}


# The first to look reads the schemas, which takes two seconds
@pytest.mark.parametrize("version", ["1.5", "1.6"])
def test_cyclonedx_is_valid_by_its_schema(here: Here, image: Image, version: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    image(EVERYTHING)
    text = here("sbom", "app", "--format", "cyclonedx" if version == "1.6" else "cyclonedx-1.5").text
    assert JsonStrictValidator(SchemaVersion.from_version(version)).validate_str(text) is None
    document = json.loads(text)
    assert document["specVersion"] == version
    assert document["metadata"]["component"]["type"] == "container"
    one = next(row for row in document["components"] if row["name"] == "libone")
    licences = sorted(row["license"]["name"] for row in one["licenses"])
    assert licences == ["GPL-2.0-or-later OR Artistic-1.0-Perl", "MIT", "public-domain"]
    assert one["evidence"]["occurrences"] == [{"location": "/var/lib/dpkg/status"}]
    [system] = [row for row in document["components"] if row["type"] == "operating-system"]
    assert (system["name"], system["version"]) == ("debian", "12")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_spdx_is_valid_by_the_library_of_its_makers(here: Here, image: Image, tmp_path: Path) -> None:
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    image(EVERYTHING)
    target = tmp_path / "app.spdx.json"
    assert here("sbom", "app", "-o", target).text == ""
    document = parse_file(str(target))
    assert [message.validation_message for message in validate_full_spdx_document(document)] == []
    assert len(document.packages) == 9
    assert {one.license_id for one in document.extracted_licensing_info} == {
        "LicenseRef-public-domain",
        "LicenseRef-SEE-LICENSE-IN-x",
    }


@pytest.mark.parametrize("format", ["spdx", "cyclonedx", "table"])
def test_the_same_image_gives_the_same_document(
    here: Here, image: Image, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    image(EVERYTHING)
    first = here("sbom", "app", "--format", format).text
    assert here("sbom", "app", "--format", format).text == first
    assert "\x1b" not in first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert ("2023-11-14T22:13:20" in here("sbom", "app", "--format", format).text) == (format != "table")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "now")
    if format != "table":
        assert "a number of seconds, not: now" in here("sbom", "app", "--format", format, status=2).err


def test_of_several_platforms_it_is_about_the_one_of_this_machine(here: Here, tmp_path: Path) -> None:
    root = files(tmp_path / "root", {"lib/apk/db/installed": APK})
    both = ("--platform", "linux/amd64,linux/arm64")
    here("build", "-q", "-t", "app", *both, "-f", "-", root, stdin=b"FROM scratch\nCOPY . /\n")
    row = json.loads(here("sbom", "app").text)["packages"][0]
    assert row["versionInfo"] == json.loads(here("layers", "app", "--json").text)["image"]
    assert row["comment"].endswith(f"Platform: linux/{'amd64' if os.uname().machine == 'x86_64' else 'arm64'}")
    assert (row["name"], len(names(here))) == ("app", 2)


def test_mistakes_on_the_command_line(here: Here, image: Image) -> None:
    image({"a": "a"})
    assert "known: spdx, cyclonedx" in here("sbom", "app", "--format", "csv", status=2).err
    assert "known: dpkg, apk, rpm, pip, npm" in here("sbom", "app", "--skip", "deb", status=2).err
    assert "No such image: none" in here("sbom", "none", status=1).err
    assert here("sbom", "app", "--format", "table").text.splitlines()[-1] == "0 packages"


@pytest.mark.parametrize(
    ("text", "expression", "unknown"),
    [
        ("mit", "MIT", False),
        ("GPL-2+", "GPL-2.0-or-later", False),
        ("GPL-2.0+", "GPL-2.0-or-later", False),
        ("LGPLv2.1", "LGPL-2.1-only", False),
        ("GFDL-1.3+ or Expat", "GFDL-1.3-or-later OR MIT", False),
        ("ASL 2.0", "Apache-2.0", False),
        ("(MIT OR Apache-2.0)", "(MIT OR Apache-2.0)", False),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", "GPL-2.0-or-later WITH Classpath-exception-2.0", False),
        ("whatever it is", "LicenseRef-whatever-it-is", True),
        ("LicenseRef-own", "LicenseRef-own", True),
        ("", "LicenseRef-e3b0c44298fc1c14", True),
        ("x" * 70, "LicenseRef-c71bd109227e2343", True),
    ],
)
def test_licences_become_expressions_of_spdx(text: str, expression: str, unknown: bool) -> None:
    found = licence(text)
    assert (found.expression, found.unknown) == (expression, unknown)


def test_readers_want_databases_and_nothing_else() -> None:
    for reader, path in [
        (dpkg, "usr/share/doc/a/b/copyright"),
        (dpkg, "srv/var/lib/dpkg/status"),
        (npm, "app/package.json"),
        (npm, "node_modules/a/lib/package.json"),
        (npm, "node_modules/a/package-lock.json"),
        (python, "METADATA"),
        (python, "a.dist-info/other/METADATA"),
    ]:
        assert not reader.wanted(path), path  # type: ignore[attr-defined]


def test_the_directory_of_documents_may_be_a_link() -> None:
    from pybuild.plugin import LayerEntry

    link = LayerEntry("usr/share/doc/libstdc++6", "l", 0o777, 0, 0, 0, 0, "gcc-12-base", "", False)
    text = "Package: libstdc++6\nVersion: 12\n"
    content = {"var/lib/dpkg/status": text.encode(), "usr/share/doc/gcc-12-base/copyright": COPYRIGHT.encode()}
    [package] = dpkg.packages(Files({link.path: link}, content))
    assert package.licences == ("Expat", "GPL-2+ or Artistic")


def test_nothing_of_the_libraries_is_imported_before_it_is_needed(inline_base: Pybuild) -> None:
    done = inline_base("sbom", "base", "--format", "table", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "cyclonedx" not in done.err
    assert "aiohttp" not in done.err


def test_how_an_image_was_built(here: Here, tmp_path: Path) -> None:
    root = files(tmp_path / "root", {"a": "a"})
    here("build", "-q", "-t", "base:1", "-f", "-", root, stdin=b"FROM scratch\nCOPY a /\n")
    text = b"FROM base:1\nARG with\nCOPY a /b\n"
    here("build", "-q", "-t", "app", "-f", "-", "--build-arg", "with=x", root, stdin=text)
    statement = json.loads(here("sbom", "app", "--provenance", "--builder-id", "https://ci.example/builder").text)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    ids = {name: json.loads(here("inspect", name).text)[0]["Id"].partition(":")[2] for name in ("app", "base:1")}
    assert statement["subject"] == [{"name": "app", "digest": {"sha256": ids["app"]}}]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["build_args"] == {"with": "x"}
    assert definition["externalParameters"]["dockerfile_text"] == text.decode()
    assert str(root) not in json.dumps(statement)
    assert definition["resolvedDependencies"] == [
        {
            "uri": "pkg:docker/base@1",
            "digest": {"sha256": ids["base:1"]},
            "annotations": {"digest-of": "image config"},
        }
    ]
    assert statement["predicate"]["runDetails"]["builder"]["id"] == "https://ci.example/builder"


def test_how_a_loaded_image_was_built_is_not_known(here: Here, image: Image, tmp_path: Path) -> None:
    image({"a": "a"})
    here("save", "-o", tmp_path / "saved.tar", "app")
    here("rmi", "app")
    here("prune", "--all", "--force")
    here("load", "-i", tmp_path / "saved.tar")
    assert "how it was built is not known here: app" in here("sbom", "app", "--provenance", status=1).err


@pytest.fixture(params=["fake", pytest.param("program", marks=pytest.mark.peers)])
def repository(request: pytest.FixtureRequest, here: Here, tmp_path: Path) -> Iterator[str]:
    """A repository at a registry with an API of referrers, or at docker's, which has none."""
    opened = registry.fake() if request.param == "fake" else registry.program(tmp_path / "registry")
    with opened as found:
        if isinstance(found, registry.Registry):
            found.contents.referrers = 2
        yield found.name("team/app")


def test_it_is_attached_to_the_pushed_image(here: Here, repository: str, tmp_path: Path) -> None:
    name = f"{repository}:1"
    root = files(tmp_path / "root", {"lib/apk/db/installed": APK})
    here("build", "-q", "-t", name, "-f", "-", root, stdin=b"FROM scratch\nCOPY . /\n")
    told = here("sbom", name, "--attach", status=1).err
    assert told.splitlines()[1] == f"hint: run `pybuild push {name}` first"
    pushed = here("push", "-q", name).text.strip()
    lines = here("sbom", name, "--attach", "--provenance").text.splitlines()
    assert here("sbom", name, "--attach", "--format", "cyclonedx").text.startswith("application/vnd.cyclonedx+json ")
    found = {one.artifact_type: one for one in list_artifacts(name)}
    assert sorted(found) == [
        "application/spdx+json",
        "application/vnd.cyclonedx+json",
        "application/vnd.in-toto+json",
    ]
    assert {one.subject for one in found.values()} == {pushed}
    assert lines[0] == f"application/spdx+json {repository}@{found['application/spdx+json'].digest}"
    [document] = fetch_artifact(name, found["application/spdx+json"].digest)
    assert document.data.decode() == here("sbom", name).text
    [statement] = fetch_artifact(name, found["application/vnd.in-toto+json"].digest)
    assert json.loads(statement.data)["subject"] == [
        {"name": repository, "digest": {"sha256": pushed.removeprefix("sha256:")}}
    ]
    purl = json.loads(document.data)["packages"][0]["externalRefs"][0]["referenceLocator"]
    assert purl.startswith(f"pkg:oci/app@{pushed}?")
    # Once more is nothing new
    here("sbom", name, "--attach")
    assert len(list_artifacts(name)) == 3


def test_what_cannot_be_attached_is_told(here: Here, image: Image) -> None:
    image({"a": "a"})
    assert "a table is for people" in here("sbom", "app", "--attach", "--format", "table", status=2).err
    assert "exclude each other" in here("sbom", "app", "--attach", "-o", "x", status=2).err
