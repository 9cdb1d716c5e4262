"""What devices give to a sandbox, and what they cannot."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pybuild.engine import devices
from pybuild.errors import PybuildError
from pybuild.plan.ops import RunDevice
from pybuild.sandbox.volumes import HostDevice, HostPath, Memory

KIND = "vendor.example/thing"


def given(directory: Path, monkeypatch: pytest.MonkeyPatch, edits: dict[str, Any], **shared: Any) -> devices.Given:
    """Return what a device with these edits gives."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(directory))
    place = directory / "pybuild" / "cdi"
    place.mkdir(parents=True, exist_ok=True)
    device = {"name": "a", "containerEdits": edits}
    description = {"cdiVersion": "0.6.0", "kind": KIND, "devices": [device], "containerEdits": shared}
    (place / "thing.json").write_text(json.dumps(description))
    found = devices.find([RunDevice(KIND)], [f"device={KIND}=*"], pytest.fail)
    return devices.given(found, pytest.fail, keeps_groups=True)


def test_all_of_it_becomes_volumes_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [
        {"hostPath": "/etc", "containerPath": "/x", "options": ["rbind", "ro", "nosuid", "rprivate"]},
        {"hostPath": "", "containerPath": "/t", "type": "tmpfs"},
    ]
    nodes = [{"path": "/dev/full", "permissions": "rw", "type": "u", "uid": 5, "fileMode": 438}]
    found = given(tmp_path, monkeypatch, {"deviceNodes": nodes, "mounts": mounts}, env=["A=1=2", "B="])
    assert found.env == {"A": "1=2", "B": ""}
    assert found.volumes == [
        HostDevice(b"/dev/full", b"/dev/full"),
        HostPath(b"/x", b"/etc", ("ro", "nosuid")),
        Memory(b"/t"),
    ]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}, "does not do (hooks)"),
        ({"additionalGids": [5]}, "does not do (additionalGids)"),
        ({"deviceNodes": [{"path": "/dev/x", "hostPath": "/etc/passwd"}]}, "device node is none of its type"),
        ({"deviceNodes": [{"path": "/dev/full", "type": "b"}]}, "device node is none of its type"),
        ({"deviceNodes": [{"path": "/dev/full", "major": 1, "minor": 3}]}, "has other numbers"),
        ({"deviceNodes": [{"path": "/dev/not-there"}]}, "has a path that is not there"),
        ({"mounts": [{"hostPath": "/not-there", "containerPath": "/x"}]}, "has a path that is not there"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "x"}]}, "a path that is not absolute"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "/x", "options": ["idmap"]}]}, "unknown mount"),
        ({"env": ["X"]}, "not NAME=VALUE"),
    ],
)
def test_what_cannot_be_given_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edits: dict[str, Any], message: str
) -> None:
    with pytest.raises(PybuildError) as caught:
        given(tmp_path, monkeypatch, edits)
    assert message in caught.value.message
    assert f"{KIND}=a" in caught.value.message


def test_what_the_user_may_not_open_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A container may have no device that is not for all
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)
    with pytest.raises(PybuildError, match="may not be opened"):
        given(tmp_path, monkeypatch, {"deviceNodes": [{"path": "/dev/full"}]})
    given(tmp_path, monkeypatch, {"deviceNodes": [{"path": "/dev/full", "permissions": "r"}]})
