"""Where things are kept."""

import os
from pathlib import Path

import pytest

from pybuild.engine import paths
from pybuild.errors import PybuildError, UsageError


def test_runtime_directory_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBUILD_RUNTIME_DIR", str(tmp_path / "r"))
    assert paths.runtime_dir() == tmp_path / "r"
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o700


def test_runtime_directory_open_to_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r").chmod(0o755)
    monkeypatch.setenv("PYBUILD_RUNTIME_DIR", str(tmp_path / "r"))
    with pytest.raises(PybuildError, match="not private"):
        paths.runtime_dir()


def test_link_in_place_of_the_runtime_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    os.symlink(tmp_path / "own", tmp_path / "r")
    monkeypatch.setenv("PYBUILD_RUNTIME_DIR", str(tmp_path / "r"))
    with pytest.raises(PybuildError, match="not private"):
        paths.runtime_dir()


def test_broken_configuration_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.toml").write_text("inline = ")
    monkeypatch.setenv("PYBUILD_CONFIG", str(tmp_path / "c.toml"))
    with pytest.raises(UsageError, match=r"c\.toml"):
        paths.config()
    monkeypatch.setenv("PYBUILD_CONFIG", str(tmp_path / "absent.toml"))
    assert paths.config() == {}
