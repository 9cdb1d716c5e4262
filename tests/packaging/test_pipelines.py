"""The pipeline files: each is what it says it is, and calls commands and options that there are."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pybuild.commands.group import load
from pybuild.commands.table import BUILT_IN, target_of

PACKAGING = Path(__file__).parents[2] / "packaging"


def strings(value: Any) -> Iterator[str]:
    """Give all that a document has of text."""
    match value:
        case dict():
            for item in value.values():
                yield from strings(item)
        case list():
            for item in value:
                yield from strings(item)
        case str():
            yield value


def scripts(path: Path) -> list[str]:
    """Return the shell scripts in a pipeline file."""
    text = path.read_text()
    if path.name == "Jenkinsfile":
        return [long or short for long, short in re.findall(r"sh '''(.*?)'''|sh '(.*?)'", text, re.DOTALL)]
    document = yaml.safe_load(text)
    if path.name == "kubernetes.yaml":
        return [shlex.join(["pybuild", *container["args"]]) for container in document["spec"]["containers"]]
    return [found for found in strings(document) if "pybuild " in found]


PIPELINES = sorted(path for path in (PACKAGING / "ci").iterdir() if path.suffix != ".md")


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_scripts_are_right_for_the_shell(path: Path) -> None:
    found = scripts(path)
    assert found
    for script in found:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_calls_commands_and_options_that_there_are(path: Path) -> None:
    calls = [
        shlex.split(call)
        for script in scripts(path)
        for call in re.findall(r"pybuild ((?:[^\n|;>\\]|\\\n)+)", script)
        if call.split()[0] in BUILT_IN
    ]
    assert {"build"} <= {call[0] for call in calls}
    for name, *words in calls:
        command = load(name, target_of(BUILT_IN[name].target))
        if hasattr(command, "list_commands"):
            command = command.get_command(None, words.pop(0))
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert used - known == set(), (path.name, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("github-actions.yml", ["vendor.github-workflows"]),
        ("gitlab-ci.yml", ["vendor.gitlab-ci", "--data-transform=gitlab-ci"]),
    ],
)
def test_is_valid_by_the_published_schema(name: str, words: list[str]) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema, which has the schemas, is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *words, PACKAGING / "ci" / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_units_are_right_for_systemd(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    for unit in (PACKAGING / "systemd").iterdir():
        # It looks whether the program is there
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/bin/pybuild", sys.executable))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", "--user", "--man=no", "verify", *tmp_path.iterdir()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in done.stderr


def test_a_pod_has_the_least_privileges() -> None:
    pod = yaml.safe_load((PACKAGING / "ci" / "kubernetes.yaml").read_text())["spec"]
    [container] = pod["containers"]
    security = container["securityContext"]
    assert (pod["hostUsers"], pod["automountServiceAccountToken"]) == (False, False)
    assert (security["allowPrivilegeEscalation"], security["capabilities"]["drop"]) == (False, ["ALL"])
    assert "privileged" not in security
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
