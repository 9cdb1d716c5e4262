"""Descriptions of devices."""

from pathlib import Path

import pytest

from pybuild.sandbox.cdi import Registry
from pybuild.sandbox.errors import SandboxError

TEXT = """\
cdiVersion: "0.8.0"
kind: vendor.com/net
annotations: {org.mobyproject.buildkit.device.class: all}
devices:
- name: eth0
  containerEdits:
    deviceNodes:
    - path: /dev/null
      fileMode: 0o660
- name: "1"
  containerEdits: {env: [A=1]}
"""


def names(registry: Registry, name: str) -> list[str]:
    return [device.name for device in registry.find(name)]


def test_names_kinds_and_classes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TEXT)
    registry = Registry([tmp_path / "none", tmp_path])
    assert registry.problems == []
    assert registry.names() == ["vendor.com/net=1", "vendor.com/net=eth0"]
    assert names(registry, "vendor.com/net") == ["vendor.com/net=1"]
    assert names(registry, "vendor.com/net=*") == registry.names()
    assert names(registry, "vendor.com/net=eth0") == ["vendor.com/net=eth0"]
    assert names(registry, "vendor.com/net=all") == registry.names()
    assert names(registry, "vendor.com/net=eth") == []
    assert names(registry, "vendor.com/ne") == []


def test_the_later_directory_counts(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yml").write_text(TEXT.replace("A=1", f"A={name}"))
    registry = Registry([tmp_path / "first", tmp_path / "second"])
    [device] = registry.find("vendor.com/net=1")
    assert device.entry.container_edits.env == ["A=second"]
    # In one directory nobody could tell which is meant, unless a later one has it too
    (tmp_path / "first" / "b.yaml").write_text(TEXT)
    assert names(Registry([tmp_path / "first", tmp_path / "second"]), "vendor.com/net=1") == ["vendor.com/net=1"]
    registry = Registry([tmp_path / "second", tmp_path / "first"])
    with pytest.raises(SandboxError, match="described twice"):
        registry.find("vendor.com/net=*")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.json", "{", "truncated"),
        ("a.json", TEXT, "malformed"),
        ("a.yaml", "a: [", "expected"),
        ("a.yaml", TEXT + "surprise: 1\n", "unknown field `surprise`"),
        ("a.yaml", TEXT.replace("0.8.0", "9.0.0"), "unknown version of a description: 9.0.0"),
        ("a.yaml", TEXT.replace("path: /dev/null", "path: 5"), "Expected `str`, got `int`"),
        ("a.json", '{"cdiVersion": "0.6.0"}', "missing required field `kind`"),
    ],
)
def test_a_file_that_makes_no_sense_is_a_problem(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    registry = Registry([tmp_path])
    [told] = registry.problems
    assert told.startswith(f"{tmp_path / name}: ")
    assert problem in told
    assert registry.names() == []


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("x")
    (tmp_path / "a.json").mkdir()
    assert len(Registry([tmp_path]).problems) == 1
