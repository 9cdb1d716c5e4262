"""Plans for several platforms in one."""

import pytest

from pybuild.api.request import BuildRequest
from pybuild.dockerfile.parse import parse
from pybuild.errors import UsageError
from pybuild.oci.digest import Digest
from pybuild.oci.image import ImageConfig
from pybuild.oci.platform import Platform
from pybuild.plan.make import make
from pybuild.plan.ops import BaseImage, BindMount, CopyOp, FromImage, FromStage, NeedBases, Plan, RunOp
from pybuild.plan.platforms import Merged, key_for, merge, platforms_of

HOST, ARM, V6 = Platform("linux", "amd64"), Platform("linux", "arm64"), Platform("linux", "arm", "v6")


def merged(text: str, *platforms: Platform) -> Merged:
    plans: dict[Platform, Plan] = {}
    for platform in platforms:
        bases: dict[str, BaseImage] = {}
        while isinstance(step := make(parse(text), BuildRequest(platform=str(platform)), bases, HOST), NeedBases):
            for key, needed in step.images.items():
                of = needed.platform
                config = ImageConfig(architecture=of.architecture, os=of.os, variant=of.variant)
                bases[key] = BaseImage(Digest("sha256:" + "0" * 64), config)
        plans[platform] = step
    return merge(plans)


def test_a_stage_for_the_machine_is_planned_once_and_names_tell_platforms() -> None:
    text = (
        "FROM --platform=$BUILDPLATFORM go AS tools\nRUN a\nFROM tools AS cross\nARG TARGETARCH\nRUN b\n"
        "FROM base\nCOPY --from=cross /x /x\nCOPY --from=other /y /y\nRUN --mount=from=tools,target=/t c\n"
    )
    plan, targets = merged(text, HOST, ARM, V6)
    assert [stage.name for stage in plan.stages] == [
        "linux/amd64 tools",
        "linux/amd64 cross",
        "linux/amd64 stage-2",
        "linux/amd64->arm64 cross",
        "linux/arm64 stage-2",
        "linux/amd64->armv6 cross",
        "linux/arm/v6 stage-2",
    ]
    assert [stage.index for stage in plan.stages] == list(range(7))
    assert targets == (2, 4, 6)
    assert plan.stages[3].base == FromStage(0)
    assert plan.stages[4].base == FromImage("base", "linux/arm64")
    ops = [step.op for step in plan.stages[4].steps]
    assert isinstance(ops[0], CopyOp)
    assert ops[0].source == FromStage(3)
    assert isinstance(ops[1], CopyOp)
    assert ops[1].source == FromImage("other", "linux/arm64")
    assert isinstance(ops[2], RunOp)
    [mount] = ops[2].mounts
    assert isinstance(mount, BindMount)
    assert mount.source == FromStage(0)
    assert plan.stages[0].base == FromImage("go", "linux/amd64")


def test_a_stage_is_shared_by_those_to_whom_it_comes_out_alike() -> None:
    text = (
        "FROM --platform=linux/amd64 base AS a\nARG TARGETOS\nRUN echo $TARGETOS\nFROM scratch\nCOPY --from=a /x /x\n"
    )
    plan, targets = merged(text, HOST, ARM)
    assert [stage.name for stage in plan.stages] == ["linux/amd64 a", "linux/amd64 stage-1", "linux/arm64 stage-1"]
    assert targets == (1, 2)


def test_one_stage_has_the_name_of_its_platform() -> None:
    plan, _ = merged("FROM base\nRUN a\n", HOST, ARM)
    assert [stage.name for stage in plan.stages] == ["linux/amd64", "linux/arm64"]
    assert key_for("base", ARM) == "base linux/arm64"
    assert key_for("base linux/amd64", ARM) == "base linux/amd64"


def test_a_date_is_one_for_all() -> None:
    with pytest.raises(UsageError, match="differs from platform to platform"):
        merged("ARG SOURCE_DATE_EPOCH=1${TARGETVARIANT:+2}\nFROM scratch\n", ARM, V6)


def test_platforms_are_read_once_each() -> None:
    assert platforms_of("linux/arm64, local,arm64,linux/arm64/v8,amd64", HOST) == [ARM, HOST]
    for text in ("linux/amd64,", ",", "linux/amd64,a b/c"):
        with pytest.raises(UsageError, match="invalid platform"):
            platforms_of(text, HOST)
