"""Rules about FROM: the variables in it, its platform, and the image it ends at."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pybuild.checks.near import nearest
from pybuild.checks.report import Report
from pybuild.dockerfile.errors import InvalidValueError
from pybuild.dockerfile.parse import Dockerfile, Stage
from pybuild.dockerfile.words import Expansion, examine
from pybuild.errors import PybuildError
from pybuild.oci.image import ImageConfig
from pybuild.oci.platform import Platform, normalise, parse_platform
from pybuild.oci.reference import InvalidReferenceError, parse_reference

if TYPE_CHECKING:
    from pybuild.checks.check import Facts

TARGET_PLATFORM = "TARGETPLATFORM"


def look(dockerfile: Dockerfile, facts: "Facts", report: Report) -> Mapping[str, str]:
    """Report what is wrong with each FROM; return the global variables, predefined ones among them."""
    given = {name: value for name, value in facts.build_args.items() if value is not None}
    predefined = _predefined(facts)
    predefined.update((name, given[name]) for name in predefined if name in given)
    defaults = _global_args(dockerfile, predefined, {})
    values = _global_args(dockerfile, predefined, given)
    declared = {name for arg in dockerfile.args for name, _ in arg.args}
    known = [*dict.fromkeys([*values, *sorted(declared)])]
    for stage in dockerfile.stages:
        _default(dockerfile, stage, defaults, report)
        _variables(stage, stage.from_.reference, values, known, report, dockerfile.escape)
        if stage.from_.platform is not None:
            found = _variables(stage, stage.from_.platform, values, known, report, dockerfile.escape)
            if found is not None:
                _platform(stage, found, values, facts, report)
    return values


def expanded(word: str, values: Mapping[str, str], escape: str) -> str:
    """Return the value of a word of FROM, "" for one that cannot have any."""
    found = _examine(word, values, escape)
    return found.text if found is not None else ""


def stage_named(dockerfile: Dockerfile, name: str, before: int) -> int | None:
    """Return the last stage of that name before stage `before`."""
    wanted = name.lower()
    found = [stage.index for stage in dockerfile.stages[:before] if stage.name == wanted]
    return found[-1] if found else None


def image_of(stage: Stage, name: str, values: Mapping[str, str], facts: "Facts", escape: str) -> ImageConfig | None:
    """Return the config of the image that FROM names, None when it is not known."""
    wanted = _wanted(stage, values, facts, escape)
    return facts.bases.get(f"{name} {wanted}") or facts.bases.get(name)


def _wanted(stage: Stage, values: Mapping[str, str], facts: "Facts", escape: str) -> Platform | None:
    """Return the platform that FROM asks for, None for what is none: whoever plans the build tells it."""
    try:
        asked = expanded(stage.from_.platform or "", values, escape)
        return parse_platform(asked, facts.host) if asked else facts.platform
    except PybuildError:
        return None


def look_at_platform(
    stage: Stage,
    name: str,
    base: ImageConfig,
    values: Mapping[str, str],
    facts: "Facts",
    report: Report,
    escape: str,
) -> None:
    """Report a base image that is for another platform than the stage asks for."""
    wanted = _wanted(stage, values, facts, escape)
    if wanted is None:
        return
    actual = normalise(base.os, base.architecture, base.variant)
    if (actual.os, actual.architecture) == (wanted.os, wanted.architecture) or not base.architecture:
        return
    message = f'Base image {name} was pulled with platform "{actual}", expected "{wanted}" for current build'
    report.add("InvalidBaseImagePlatform", stage.from_, message, stage.from_.reference)


def _predefined(facts: "Facts") -> dict[str, str]:
    values = {"TARGETSTAGE": facts.target or "default"}
    for side, platform in (("BUILD", facts.host), ("TARGET", facts.platform)):
        values[side + "PLATFORM"] = str(platform)
        values[side + "OS"] = platform.os
        values[side + "OSVERSION"] = ""
        values[side + "ARCH"] = platform.architecture
        values[side + "VARIANT"] = platform.variant
    return values


def _global_args(dockerfile: Dockerfile, predefined: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    values = dict(predefined)
    for arg in dockerfile.args:
        for name, default in arg.args:
            if name in given:
                values[name] = given[name]
            elif default is not None:
                values[name] = expanded(default, values, dockerfile.escape)
    return values


def _examine(word: str, values: Mapping[str, str], escape: str) -> Expansion | None:
    try:
        return examine(word, values, escape)
    except InvalidValueError:
        # Whoever plans the build tells it
        return None


def _default(dockerfile: Dockerfile, stage: Stage, defaults: Mapping[str, str], report: Report) -> None:
    found = _examine(stage.from_.reference, defaults, dockerfile.escape)
    if found is None or stage_named(dockerfile, found.text, stage.index) is not None:
        return
    try:
        parse_reference(found.text)
    except InvalidReferenceError:
        written = stage.from_.reference
        message = f"Default value for ARG {written} results in empty or invalid base image name"
        report.add("InvalidDefaultArgInFrom", stage.from_, message, written)


def _variables(
    stage: Stage, word: str, values: Mapping[str, str], known: list[str], report: Report, escape: str
) -> Expansion | None:
    found = _examine(word, values, escape)
    if found is None:
        return None
    for name in sorted(found.unset.difference(known)):
        near = nearest(name, known)
        message = f"FROM argument '{name}' is not declared" + (f" (did you mean {near}?)" if near else "")
        report.add("UndefinedArgInFrom", stage.from_, message, name)
    return found


def _platform(stage: Stage, found: Expansion, values: Mapping[str, str], facts: "Facts", report: Report) -> None:
    from_ = stage.from_
    written = from_.platform or ""
    if found.used == {TARGET_PLATFORM} and not found.unset and found.text == values[TARGET_PLATFORM]:
        message = f"Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
        report.add("RedundantTargetPlatform", from_, message, written)
    if found.used or found.unset:
        return
    try:
        platform = parse_platform(found.text, facts.host)
    except PybuildError:
        # Whoever plans the build tells it
        return
    name = stage.name or ""
    if platform.os not in name and platform.architecture not in name:
        message = f'FROM --platform flag should not use constant value "{found.text}"'
        report.add("FromPlatformFlagConstDisallowed", from_, message, written)
