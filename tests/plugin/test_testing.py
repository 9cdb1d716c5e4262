"""What tests of plugins are given: `pybuild.testing`, used as a project's tests use it."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.testing import (
    FakeDaemon,
    InProcess,
    Program,
    Registry,
    check_imports,
    fake_daemon,
    pybuild_cli,
    tiny_image,
    tmp_registry,
)
from support import plugins

__all__ = ["fake_daemon", "pybuild_cli", "tiny_image", "tmp_registry"]

HELLO = """
    import sys
    from pybuild.plugin import UsageError, images, write_line

    def hello(name: str = "") -> int:
        if name == "bad":
            raise UsageError("not this")
        write_line(f"hello {len(images())} {sys.stdin.read()}")
        return 4
"""


@pytest.fixture
def pybuild(tmp_path: Path) -> Program:
    """The fixture of that name, with a plugin made here in the place of a project's."""
    base = tmp_path / "pybuild"
    base.mkdir()
    entry = "[pybuild.commands]\nhello = third_kit:hello\n"
    plugins.add(base / "plugins" / "under-test", entry, {"third_kit.py": HELLO})
    return Program(base, base / "plugins")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    sys.modules.pop("third_kit", None)


@pytest.mark.parametrize("kind", ["process", "here"])
def test_both_programs_do_the_same(pybuild: Program, tiny_image: str, kind: str, tmp_path: Path) -> None:
    run = InProcess(pybuild) if kind == "here" else pybuild
    before = dict(os.environ), [*sys.path], os.getcwd()
    assert run("hello", stdin="you", status=4) == (4, "hello 1 you\n", "")
    assert run("hello", "--name", "bad", status=2).err == "error: not this\n"
    assert "Usage: pybuild hello" in run("hello", "--help").out
    assert json.loads(run("inspect", tiny_image, cwd=tmp_path).out)[0]["RepoTags"] == ["tiny:1"]
    assert "no such option: --nam" in run("hello", "--nam", status=2).err
    assert (dict(os.environ), [*sys.path], os.getcwd()) == before
    with pytest.raises(AssertionError, match="exit code 4: hello"):
        run("hello")


def test_an_executable_is_not_run_in_the_process_of_the_tests(pybuild: Program, pybuild_cli: Program) -> None:
    script = """\
        #!/bin/sh
        echo '{"api": 1, "name": "there", "version": "3"}'
    """
    plugins.add_executable(Path(pybuild.env["PYBUILD_PLUGIN_PATH"]) / "pybuild-there", script)
    with pytest.raises(pytest.fail.Exception, match="use the fixture `pybuild`"):
        pybuild_cli("there")
    assert '"version": "3"' in pybuild("there").out


def test_a_registry_takes_images_and_gives_them_back(
    pybuild_cli: Program, tmp_registry: Registry, tiny_image: str
) -> None:
    name = tmp_registry.name("team/app:1")
    pybuild_cli("tag", tiny_image, name)
    digest = pybuild_cli("push", "-q", name).out.strip()
    assert tmp_registry.tags("team/app") == ["1"]
    assert json.loads(tmp_registry.manifests["team/app", digest][1])["schemaVersion"] == 2
    pybuild_cli("sbom", name, "--attach")
    assert [row["artifactType"] for row in tmp_registry.referrers("team/app", digest)] == ["application/spdx+json"]
    before = pybuild_cli("inspect", name).out
    pybuild_cli("rmi", "--force", name, tiny_image)
    pybuild_cli("prune", "--all", "--force")
    assert "404" in pybuild_cli("pull", tmp_registry.name("team/other"), status=1).err
    pybuild_cli("pull", name)
    assert json.loads(pybuild_cli("inspect", name).out)[0]["Id"] == json.loads(before)[0]["Id"]


@pytest.mark.parametrize("kind", ["process", "here"])
def test_a_daemon_tells_what_the_test_has_written_down(
    pybuild: Program, fake_daemon: FakeDaemon, context: Path, kind: str
) -> None:
    run = InProcess(pybuild) if kind == "here" else pybuild
    assert run("build", "-q", "-t", "app:2", context).out == "sha256:" + "ab" * 32 + "\n"
    [asked] = [one for one in fake_daemon.requests if one["method"] == "POST"]
    assert (asked["path"], asked["body"]["tags"]) == ("/build", ["app:2"])
    failure = {"kind": "RunFailedError", "message": "as the test wants it", "hint": "look", "exit_code": 1}
    fake_daemon.events = [{"event": "Failed", "failure": failure, "step": -1, "time": 1.0}]
    assert "error: as the test wants it\nhint: look\n" in run("build", context, status=1).err
    fake_daemon.answer("GET", "/images/json", [{}, {}, {}])
    assert run("hello", status=4).out == "hello 3 \n"
    fake_daemon.answer("GET", "/images/json", {"message": "no images today"}, status=500)
    assert "no images today" in run("hello", status=1).err
    assert "the test has no answer to GET /images/app/json" in run("inspect", "app", status=1).err


def test_imports_are_checked() -> None:
    check_imports("pybuild.plugin")
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        check_imports("no_such_module_at_all")
