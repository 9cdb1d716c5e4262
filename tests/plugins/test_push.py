"""`pybuild push` is a plugin: it knows the public API alone, and starts as quickly as what is built in."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybuild
from pybuild.plugin import (
    ArtifactFile,
    NotFoundError,
    PybuildError,
    UsageError,
    fetch_artifact,
    list_artifacts,
    push_artifact,
)
from pybuild.testing import check_imports
from support import registry
from support.here import Here

SBOM = "application/spdx+json"


@pytest.fixture(params=["fake", pytest.param("program", marks=pytest.mark.peers)])
def name(request: pytest.FixtureRequest, here: Here, tmp_path: Path) -> Iterator[str]:
    """An image that was pushed to a registry with an API of referrers, or to docker's, which has none."""
    tree = tmp_path / "context"
    tree.mkdir()
    (tree / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    opened = registry.fake() if request.param == "fake" else registry.program(tmp_path / "registry")
    with opened as found:
        if isinstance(found, registry.Registry):
            found.contents.referrers = 2
        here("build", "-q", "-t", found.name("team/app:1"), tree)
        yield found.name("team/app:1")


def test_files_are_attached_to_an_image(here: Here, name: str) -> None:
    with pytest.raises(PybuildError, match="404 Not Found"):
        push_artifact(name, SBOM, [ArtifactFile(b"{}", SBOM)])
    pushed = json.loads(here("push", "--json", name).text)
    files = [ArtifactFile(b'{"a": 1}', SBOM, {"org.opencontainers.image.title": "sbom.json"}), ArtifactFile(b"", "a/b")]
    made = push_artifact(name, SBOM, files, annotations={"org.opencontainers.image.created": "2026-01-01T00:00:00Z"})
    assert made.subject == pushed["digest"]
    other = push_artifact(
        f"{name.rpartition(':')[0]}@{made.subject}", "application/x-other", [ArtifactFile(b"x", "a/b")]
    )
    assert push_artifact(name, SBOM, files, annotations=made.annotations) == made
    assert list_artifacts(name) == [made, other]
    assert list_artifacts(name, SBOM) == [made]
    assert fetch_artifact(name, made.digest) == files
    # An image can be pushed on, and its artifacts are no images
    assert here("push", "-q", name).text.strip() == made.subject


def test_what_cannot_be_attached_is_told(here: Here, name: str) -> None:
    with pytest.raises(UsageError, match="at least one file"):
        push_artifact(name, SBOM, [])
    with pytest.raises(UsageError, match="not a media type: sbom"):
        push_artifact(name, "sbom", [ArtifactFile(b"", SBOM)])


def test_options_that_cannot_be_meant_are_told(here: Here) -> None:
    assert "unknown kind of progress: bars" in here("push", "--progress", "bars", "x", status=2).err
    assert "not a registry: a/b" in here("push", "--insecure-registry", "a/b", "x", status=2).err
    failed = here("push", "--progress=json", "x", status=1).err
    assert json.loads(failed.splitlines()[-1])["failure"]["kind"] == NotFoundError.__name__


def test_it_starts_quickly_and_uses_the_public_interface_only(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(pybuild.__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{root.parent / 'plugins'}")
    check_imports("pybuild_push.command")
    code = "import sys; from pybuild.commands.table import find; find(['push']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = {
        "typer",
        "msgspec",
        "ssl",
        "urllib3",
        "tqdm",
        "dataclasses",
        "asyncio",
        "sqlite3",
        "pybuild.engine.pushing",
    }
    assert "pybuild_push.command" in done.stdout.split()
    assert not heavy & set(done.stdout.split())


def test_help_lists_it_without_importing_it() -> None:
    code = (
        "import sys; from pybuild.commands.app import run; run(['--help'])\n"
        "assert not [name for name in sys.modules if name.startswith('pybuild_push')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "Bring images to their registries" in done.stdout
