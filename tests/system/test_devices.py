"""`RUN --device`: devices as the Container Device Interface describes them, in real builds."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.program import Pybuild

pytestmark = pytest.mark.userns

KIND = "vendor.example/thing"
FULL: dict[str, Any] = {
    "env": ["SHARED=own", "OWN=1"],
    "deviceNodes": [{"path": "/dev/cdi/full", "hostPath": "/dev/full", "type": "c", "major": 1, "minor": 7}],
}


def describe(pybuild: Pybuild, name: str, **more: Any) -> None:
    """Describe a full device, a null device with a library, and one that anybody may have."""
    files = pybuild.base / "files"
    files.mkdir(exist_ok=True)
    (files / "lib").write_text("library\n")
    mounts = [
        {"hostPath": str(files), "containerPath": "/opt/thing", "options": ["ro", "nosuid", "rbind"]},
        {"hostPath": str(files / "lib"), "containerPath": "/lib/thing.so", "options": ["ro"]},
    ]
    null = {"deviceNodes": [{"path": "/dev/null2", "hostPath": "/dev/null"}], "mounts": mounts}
    description = {
        "cdiVersion": "0.6.0",
        "kind": KIND,
        "containerEdits": {"env": ["SHARED=all", "VERSION=2"]},
        "devices": [
            {"name": "full", "containerEdits": FULL},
            {
                "name": "null0",
                "containerEdits": null,
                "annotations": {"org.mobyproject.buildkit.device.class": "nulls"},
            },
            {
                "name": "open",
                "containerEdits": {"env": ["OPEN=yes"]},
                "annotations": {"org.mobyproject.buildkit.device.autoallow": "true"},
            },
        ],
        **more,
    }
    directory = pybuild.home / ".config/pybuild/cdi"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(json.dumps(description))


def warnings(events: list[dict[str, Any]]) -> list[str]:
    return [event["message"] for event in events if event["event"] == "Notice" and event["level"] == "warning"]


def failure(pybuild: Pybuild, context: Path, flags: str, *args: str) -> tuple[str, str]:
    result = pybuild.build(context, *args, dockerfile=f"FROM base\nRUN {flags} true\n", status=1)
    told = result.events[-1]["failure"]
    assert told["line"] == 2
    return told["message"], told["hint"]


def test_what_a_device_brings_is_there_and_leaves_nothing(pybuild: Pybuild, context: Path) -> None:
    pybuild.add_base()
    # JSON is YAML too; what writes descriptions for real devices writes that
    describe(pybuild, "thing.yaml")
    text = f"""FROM base
RUN --device={KIND}=full --device=name={KIND}=nulls,required=true \\
    {{ echo x > /dev/cdi/full || echo full; echo x > /dev/null2; echo $SHARED $OWN $VERSION; \\
    cat /opt/thing/lib /lib/thing.so; touch /opt/thing/new || echo ro; }} > /out
RUN ls -d /dev/cdi /dev/null2 /opt /lib/thing.so > /gone 2>&1 || echo "$OWN" >> /gone
"""
    image = pybuild.image(context, "--allow=device", dockerfile=text)
    assert image.read("out").splitlines() == ["full", "own 1 2", "library", "library", "ro"]
    assert image.read("gone").count("No such file") == 4
    (layer,) = [layer for layer in image.layers if any(node.path == "out" for node in layer)]
    assert [node.path for node in layer if not node.path.startswith(("dev", "proc", "sys"))] == ["out"]
    assert [node.path for node in layer if node.path.startswith("dev/")] == []
    assert "OWN=1" not in image.run["Env"]


def test_devices_need_permission(inline_base: Pybuild, context: Path) -> None:
    describe(inline_base, "thing.json")
    text = f'FROM base\nRUN --device={KIND}=full echo "<$OWN>" > /out\n'
    for flags in (f"--device={KIND}=full", f"--device={KIND}=full,required"):
        message, hint = failure(inline_base, context, flags)
        assert message == f"device needs the permission of whoever builds: {KIND}=full"
        assert hint == f"build with `--allow device={KIND}=full`, or `--allow device` for all"
    # A kind alone means its first device, in permissions as well
    for allowed in (f"device={KIND}=full", f"device={KIND}", f"device={KIND}=*", "device"):
        assert inline_base.image(context, f"--allow={allowed}", dockerfile=text).read("out") == "<1>\n"
    failure(inline_base, context, f"--device={KIND}=null0", f"--allow=device={KIND}")
    # What was built with permission is not had without it
    assert inline_base.build(context, "--allow=device", dockerfile=text).redone() == []
    assert inline_base.build(context, dockerfile=text, status=1).events[-1]["event"] == "Failed"
    alias = "FROM base\nRUN --device=other.example/x=y,required echo $OWN > /out\n"
    aliased = inline_base.image(context, f"--allow=device={KIND}=full,alias=other.example/x=y", dockerfile=alias)
    assert aliased.read("out") == "1\n"
    open_to_all = inline_base.image(
        context, dockerfile=f"FROM base\nRUN --device={KIND}=open,required echo $OPEN > /out\n"
    )
    assert open_to_all.read("out") == "yes\n"


def test_what_is_not_there_is_told(inline_base: Pybuild, context: Path) -> None:
    describe(inline_base, "thing.json")
    message, hint = failure(inline_base, context, "--device=vendor.example/none=a,required", "--allow=device")
    assert message == "device is required and there is none: vendor.example/none=a"
    assert hint == f"there are {KIND}=full, {KIND}=null0, {KIND}=open"
    result = inline_base.build(context, "--allow=device", dockerfile="FROM base\nRUN --device=v.example/no true\n")
    assert warnings(result.events) == ["RUN goes on without the device, as there is none: v.example/no"]
    # It may be in a file that cannot be read, or that has what is not known here
    describe(inline_base, "thing.json", unknown=1)
    _, hint = failure(inline_base, context, f"--device={KIND}=full,required", "--allow=device")
    assert "unknown" in hint
    assert "thing.json" in hint


def test_one_id_has_devices_too(inline_base: Pybuild, context: Path) -> None:
    describe(inline_base, "thing.json")
    text = f"FROM base\nRUN --device={KIND}=full (echo x > /dev/cdi/full || echo full) 2>&1 | tail -n1 > /out\n"
    single = inline_base.image(context, "--allow=device", dockerfile=text, env={"PYBUILD_ID_MODE": "single"})
    assert single.read("out") == "full\n"


def test_without_mounts_there_are_copies_of_files(inline_base: Pybuild, context: Path) -> None:
    describe(inline_base, "thing.json")
    files = str(inline_base.base / "files")
    read_only = {"hostPath": files, "containerPath": "/opt/thing", "options": ["ro"]}
    devices = [{"name": "ro", "containerEdits": {"mounts": [read_only], "env": ["OWN=1"]}}]
    devices += [{"name": "rw", "containerEdits": {"mounts": [{**read_only, "options": ["rw"]}]}}]
    describe(inline_base, "thing.json", devices=devices)
    text = f"FROM base\nRUN --device={KIND}=ro cat /opt/thing/lib > /out; echo $OWN >> /out\n"
    image = inline_base.image(context, "--allow=device", "--isolation=chroot", dockerfile=text)
    assert image.read("out") == "library\n1\n"
    assert [node.path for layer in image.layers for node in layer if node.path.startswith("opt")] == []
    message, _ = failure(inline_base, context, f"--device={KIND}=rw", "--allow=device", "--isolation=chroot")
    assert "needs mounts" in message
    if os.geteuid() != 0:
        describe(inline_base, "thing.json")
        message, hint = failure(inline_base, context, f"--device={KIND}=full", "--allow=device", "--isolation=chroot")
        assert message == "a device node cannot be made without mounts: /dev/cdi/full"
        assert "--isolation=namespaces" in hint
