"""Several platforms in one build: their plans become one, in which a stage that comes out alike is done once."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from pybuild.errors import UsageError
from pybuild.oci.platform import Platform, parse_platform
from pybuild.plan.ops import (
    BindMount,
    CacheMount,
    CopyOp,
    FromImage,
    FromStage,
    Op,
    Plan,
    PlannedStage,
    RunMount,
    RunOp,
)


class Merged(NamedTuple):
    """The plans of several platforms in one. `targets` are the places of their target stages in `plan.stages`."""

    plan: Plan
    targets: tuple[int, ...]


def platforms_of(text: str, host: Platform) -> list[Platform]:
    """Return the platforms that `--platform` names, each once; raise UsageError."""
    return list(dict.fromkeys(parse_platform(part.strip(), host) for part in text.split(",")))


def key_for(key: str, platform: Platform) -> str:
    """Return the `FromImage.key` of an image in a merged plan, `key` being that in the plan of `platform`."""
    return key if " " in key else f"{key} {platform}"


def merge(plans: Mapping[Platform, Plan]) -> Merged:
    """Return one plan of several; raise UsageError where they cannot be together.

    Images are named with their platform, and stages with what tells them apart: the platform of their files, and
    behind an arrow that of the image they are made for, where it is another one.
    """
    if len({plan.source_date_epoch for plan in plans.values()}) > 1:
        raise UsageError("SOURCE_DATE_EPOCH differs from platform to platform", "give it one value for all")
    stages: list[PlannedStage] = []
    makes_for: list[list[Platform]] = []
    known: dict[int, list[int]] = {}
    targets: list[int] = []
    for platform, plan in plans.items():
        places: dict[int, int] = {}
        for stage in plan.stages:
            moved = _moved(stage, places, platform)
            others = known.setdefault(stage.index, [])
            place = next((one for one in others if stages[one] == msgspec.structs.replace(moved, index=one)), None)
            if place is None:
                place = len(stages)
                others.append(place)
                stages.append(msgspec.structs.replace(moved, index=place))
                makes_for.append([])
            makes_for[place].append(platform)
            places[stage.index] = place
        targets.append(places[plan.target.index])
    first = next(iter(plans.values()))
    named = [_named(stage, made, plans) for stage, made in zip(stages, makes_for, strict=True)]
    warnings = dict.fromkeys(warning for plan in plans.values() for warning in plan.warnings)
    return Merged(Plan(tuple(named), first.source_date_epoch, tuple(warnings), first.labels), tuple(targets))


def _moved(stage: PlannedStage, places: Mapping[int, int], platform: Platform) -> PlannedStage:
    """Return a stage that names other stages and images as the merged plan does; it has no place of its own yet."""

    def source(given: object) -> object:
        match given:
            case FromStage(index=index):
                return FromStage(places[index])
            case FromImage(reference=reference, platform=""):
                return FromImage(reference, str(platform))
            case _:
                return given

    def mount(given: RunMount) -> RunMount:
        if isinstance(given, BindMount | CacheMount) and given.source is not None:
            return msgspec.structs.replace(given, source=source(given.source))
        return given

    def op(given: Op | None) -> Op | None:
        match given:
            case CopyOp():
                return msgspec.structs.replace(given, source=source(given.source))
            case RunOp(mounts=mounts) if mounts:
                return msgspec.structs.replace(given, mounts=tuple(map(mount, mounts)))
            case _:
                return given

    steps = tuple(msgspec.structs.replace(step, op=op(step.op)) for step in stage.steps)
    return msgspec.structs.replace(stage, index=-1, base=source(stage.base), steps=steps)


def _named(stage: PlannedStage, made: Sequence[Platform], plans: Mapping[Platform, Plan]) -> PlannedStage:
    """Return a stage whose name tells its platform."""
    label = str(stage.platform)
    if len(made) == 1 and made[0] != stage.platform:
        target = made[0]
        label += "->" + (target.architecture + target.variant if target.os == stage.platform.os else str(target))
    alone = all(len(plan.stages) == 1 for plan in plans.values()) and stage.name.startswith("stage-")
    return msgspec.structs.replace(stage, name=label if alone else f"{label} {stage.name}")
