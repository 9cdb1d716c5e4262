"""`make`: a Dockerfile, a request and the configs of its bases become a Plan."""

from collections.abc import Callable, Mapping

import msgspec

from pybuild.api.request import BuildRequest
from pybuild.dockerfile.addresses import names_remote
from pybuild.dockerfile.errors import DockerfileError, Span, near
from pybuild.dockerfile.instructions import Arg, Copy, From, Instruction, Onbuild, Run
from pybuild.dockerfile.parse import Dockerfile, Stage, parse_onbuild
from pybuild.errors import CancelledError, NotFoundError, PybuildError, UsageError
from pybuild.oci.image import RunConfig
from pybuild.oci.platform import Platform, normalise, parse_platform, runs_on
from pybuild.plan import contexts, epoch, mounting, predefined
from pybuild.plan.epoch import EPOCH, OF_CONTEXT
from pybuild.plan.lower import StageBuilder
from pybuild.plan.ops import (
    Base,
    BaseImage,
    CopySource,
    FromContext,
    FromImage,
    FromNamed,
    FromScratch,
    FromStage,
    MountSource,
    NeedBases,
    NeededBase,
    Plan,
    PlannedStage,
    Remote,
    Warned,
)
from pybuild.plan.scope import Scope
from pybuild.plan.text import Text


class _Making(msgspec.Struct):
    """What is known while a plan is made."""

    dockerfile: Dockerfile
    request: BuildRequest
    bases: Mapping[str, BaseImage]
    host: Platform
    platform: Platform
    text: Text
    globals: dict[str, str]
    declared_globals: dict[str, str]
    used_args: set[str] = msgspec.field(default_factory=set)
    contexts: Mapping[str, str] = msgspec.field(default_factory=dict)
    missing: dict[str, NeededBase] = msgspec.field(default_factory=dict)
    warnings: list[Warned] = msgspec.field(default_factory=list)
    done: dict[int, tuple[PlannedStage, StageBuilder]] = msgspec.field(default_factory=dict)


def make(
    dockerfile: Dockerfile,
    request: BuildRequest,
    bases: Mapping[str, BaseImage],
    host: Platform,
    context_time: Callable[[], int] = epoch.no_time,
    moment: epoch.Moment = epoch.no_moment,
) -> Plan | NeedBases:
    """Return what the request needs of the Dockerfile, or the images whose config is missing.

    `bases` are by `FromImage.key`.
    `host` is the platform that the build runs on, and builds for if the request does not say; `context_time` is
    asked when the context was committed or changed, in seconds since the epoch, 0 if it has no such time; `moment`
    that of what else SOURCE_DATE_EPOCH may name, and what it raises for a named context passes. Raises
    DockerfileError for what the file says wrongly, with its place, and UsageError or NotFoundError for what the
    request asks wrongly (`--target`, `--platform`, SOURCE_DATE_EPOCH).
    """
    platform = _target_platform(request, host)
    request = _dated(request, context_time)
    text = Text(dockerfile)
    arguments = _platform_args(host, platform, request.target)
    named = contexts.by_key(request.build_contexts)
    making = _Making(dockerfile, request, bases, host, platform, text, arguments, {}, contexts=named)
    _read_global_args(making)
    if making.globals.get(EPOCH) == OF_CONTEXT:
        making.globals[EPOCH] = str(context_time() or "")
    _date_by_name(making, moment)
    if making.missing:
        return NeedBases(dict(making.missing))
    target = _target_index(dockerfile, request.target)
    needed = _static_needs(making, target)
    while True:
        making.done.clear()
        making.missing.clear()
        making.warnings.clear()
        for index in sorted(needed):
            _plan_stage(making, index)
        if making.missing:
            return NeedBases(dict(making.missing))
        found = {need for planned, _ in making.done.values() for need in planned.depends()} | needed
        if found == needed:
            break
        needed = found
    return _finish(making, sorted(needed), target)


def _finish(making: _Making, order: list[int], target: int) -> Plan:
    stages = [making.done[index][0] for index in order if index <= target]
    seconds = _epoch(making)
    making.warnings += predefined.warnings(making.request.build_args, making.used_args)
    return Plan(
        tuple(stages),
        seconds,
        tuple(dict.fromkeys(making.warnings)),
        dict(making.request.labels),
    )


def _dated(request: BuildRequest, context_time: Callable[[], int]) -> BuildRequest:
    """Return the request with the time of its context in place of the word for it; a directory has none."""
    if request.build_args.get(EPOCH) != OF_CONTEXT:
        return request
    return request._replace(build_args={**request.build_args, EPOCH: str(context_time() or "")})


def _epoch_text(making: _Making) -> str:
    return making.globals.get(EPOCH) or making.request.build_args.get(EPOCH) or ""


def _epoch(making: _Making) -> int | None:
    """Return SOURCE_DATE_EPOCH of the request or of an ARG before the first FROM, which is a number by now."""
    text = _epoch_text(making)
    if making.request.rewrite_timestamp and not text:
        making.warnings.append(Warned(f"rewrite-timestamp=true has no effect without {EPOCH}"))
    return epoch.seconds(text) if text else None


def _date_by_name(making: _Making, moment: epoch.Moment) -> None:
    """Put the time of a named context or a stage in place of its name, or note the image whose config tells it.

    What has no time, such as a directory, leaves SOURCE_DATE_EPOCH unset, as with BuildKit.
    """
    text = _epoch_text(making)
    if not text or epoch.seconds(text) is not None:
        return
    seconds = _moment_named(making, text, moment)
    if seconds is None:
        return
    value = str(seconds or "")
    if EPOCH in making.globals:
        making.globals[EPOCH] = value
    if making.request.build_args.get(EPOCH) is not None:
        making.request = making.request._replace(build_args={**making.request.build_args, EPOCH: value})


def _moment_named(making: _Making, name: str, moment: epoch.Moment) -> int | None:
    """Return the time that a name stands for, None when an image is missing; contexts go before stages."""
    stages = making.dockerfile.stages
    arg = _epoch_arg(making)
    span = stages[0].from_.span if arg is None else arg.span
    found = _named(making, name, len(stages), span)
    if isinstance(found, FromNamed):
        address = making.contexts[found.name]
        return moment(address) if names_remote(address) else 0
    if isinstance(found, FromImage):
        _need(making, found, span.start_line)
        base = making.bases.get(found.key)
        return None if base is None else epoch.created(base.config)
    index = found.index if isinstance(found, FromStage) else _stage_named(making, name, len(stages))
    if index is None:
        raise _no_epoch(making, name, arg)
    source, span = _epoch_source(making, stages[index])
    try:
        return moment(source)
    except CancelledError:
        raise
    except PybuildError as error:
        raise making.text.error(error.message, span, error.hint) from error


def _epoch_source(making: _Making, stage: Stage) -> tuple[Remote, Span]:
    """Return what a stage fetches that gives its time, and where; what is looked for has no value for its ARGs."""
    named = making.globals.pop(EPOCH, None)
    epoch.check_stage(stage, making.text.expand(stage.from_.reference, making.globals, stage.from_.span), making.text)
    builder = _start(making, stage, FromScratch())
    assert builder is not None, "scratch lacks no image"
    for instruction in stage.instructions:
        _apply(making, builder, stage.index, instruction)
    if named is not None:
        making.globals[EPOCH] = named
    return epoch.source_of(stage, builder.steps, making.text)


def _epoch_arg(making: _Making) -> Arg | None:
    """Return the ARG before the first FROM whose default is SOURCE_DATE_EPOCH, None if the request gives it."""
    if making.request.build_args.get(EPOCH) is not None:
        return None
    declared = [arg for arg in making.dockerfile.args if EPOCH in dict(arg.args)]
    return declared[0] if declared else None


def _no_epoch(making: _Making, text: str, arg: Arg | None) -> DockerfileError | UsageError:
    message = f"{EPOCH} must be a number of seconds, `{OF_CONTEXT}`, or a named context or stage, not: {text}"
    named = sorted({*making.contexts, *(stage.name for stage in making.dockerfile.stages if stage.name)})
    hint = f"such as that of `date +%s`; contexts and stages: {', '.join(named) or 'none'}"
    return UsageError(message, hint) if arg is None else making.text.error(message, arg.span, hint)


def _target_platform(request: BuildRequest, host: Platform) -> Platform:
    if not request.platform:
        return host
    if "," in request.platform:
        raise UsageError(f"this is done for one platform at a time: {request.platform}", "name one of them")
    return parse_platform(request.platform, host)


def _platform_args(host: Platform, target: Platform, stage: str) -> dict[str, str]:
    values = {"TARGETSTAGE": stage or "default"}
    for side, platform in (("BUILD", host), ("TARGET", target)):
        values[side + "PLATFORM"] = str(platform)
        values[side + "OS"] = platform.os
        values[side + "OSVERSION"] = ""
        values[side + "ARCH"] = platform.architecture
        values[side + "VARIANT"] = platform.variant
    return values


def _read_global_args(making: _Making) -> None:
    """Evaluate the ARGs before the first FROM, name by name."""
    given = making.request.build_args
    for name in list(making.globals):
        if given.get(name) is not None:
            making.globals[name] = str(given[name])
            making.used_args.add(name)
    for arg in making.dockerfile.args:
        for name, default in arg.args:
            value = given.get(name)
            if name in given:
                making.used_args.add(name)
            if value is None and default is not None:
                value = making.text.expand(default, making.globals, arg.span)
            if value is not None:
                making.globals[name] = value
                making.declared_globals[name] = value


def _target_index(dockerfile: Dockerfile, target: str) -> int:
    if not target:
        return len(dockerfile.stages) - 1
    named = {stage.name.lower(): stage.index for stage in dockerfile.stages if stage.name}
    wanted = target.lower()
    if wanted in named:
        return named[wanted]
    if wanted.isdigit() and int(wanted) < len(dockerfile.stages):
        return int(wanted)
    meant = near(wanted, named)
    hint = f"did you mean `{meant}`?" if meant else "stages with a name: " + (", ".join(sorted(named)) or "none")
    raise NotFoundError(f"target stage could not be found: {target}", hint)


def _static_needs(making: _Making, target: int) -> set[int]:
    """Return the stages reachable from the target by FROM and --from as they are written."""
    needed: set[int] = set()
    pending = [target]
    while pending:
        index = pending.pop()
        if index in needed:
            continue
        needed.add(index)
        stage = making.dockerfile.stages[index]
        base = _base_of(making, stage)
        if isinstance(base, FromStage):
            pending.append(base.index)
        for instruction in () if _replaced(making, stage) else stage.instructions:
            if isinstance(instruction, Copy) and instruction.from_ is not None:
                source = _source_of(making, stage.index, instruction.from_, instruction.span)
                if isinstance(source, FromStage):
                    pending.append(source.index)
            if isinstance(instruction, Run):
                mounted = _mounted(making, stage.index, instruction)
                pending += [source.index for source in mounted if isinstance(source, FromStage)]
    return needed


def _stage_named(making: _Making, name: str, before: int) -> int | None:
    """Return the last stage of that name before stage `before`."""
    wanted = name.lower()
    for stage in reversed(making.dockerfile.stages[:before]):
        if stage.name and stage.name.lower() == wanted:
            return stage.index
    return None


def _named(making: _Making, name: str, before: int, span: Span) -> FromImage | FromStage | FromNamed | None:
    """Return what a named context of that name means to stage `before`, None when there is none."""
    if not making.contexts:
        return None
    key = contexts.key_of(name)
    value = making.contexts.get(key)
    if value is None:
        return None
    if value.startswith(contexts.IMAGE):
        return FromImage(value.removeprefix(contexts.IMAGE))
    if value.startswith(contexts.LAYOUT):
        return FromImage(value)
    if value.startswith(contexts.TARGET):
        index = _stage_named(making, value.removeprefix(contexts.TARGET), before)
        if index is None:
            raise making.text.error(
                f"named context means no stage before this one: {name}: {value}", span, "stages count that come before"
            )
        return FromStage(index)
    return FromNamed(key)


def _replaced(making: _Making, stage: Stage) -> FromImage | FromStage | FromNamed | None:
    """Return what a named context puts in the place of a whole stage, None for nothing."""
    return _named(making, stage.name, stage.index, stage.from_.span) if stage.name else None


def _base_of(making: _Making, stage: Stage) -> Base:
    replaced = _replaced(making, stage)
    if replaced is not None:
        return replaced
    reference = making.text.expand(stage.from_.reference, making.globals, stage.from_.span)
    if not reference:
        raise making.text.error(
            f"base name is empty: {stage.from_.reference}", stage.from_.span, "give the ARG in it a value"
        )
    if reference == "scratch":
        return FromScratch()
    named = _named(making, reference, stage.index, stage.from_.span)
    if named is not None:
        return named
    index = _stage_named(making, reference, stage.index)
    if index is not None:
        return FromStage(index)
    platform = _asked_platform(making, stage.from_)
    return FromImage(reference, "" if platform in (None, making.platform) else str(platform))


def _source_of(making: _Making, index: int, name: str, span: Span) -> CopySource:
    """Return what `--from=NAME` in stage `index` means."""
    if "$" in name:
        raise making.text.error(f"variables are not expanded in --from: {name}", span, "write the stage's name")
    stages = making.dockerfile.stages
    if name.isdigit():
        if int(name) >= index:
            raise making.text.error(
                f"stage {name} needs to be defined before stage {index}", span, "stages count from 0 in file order"
            )
        return FromStage(int(name))
    named = _named(making, name, index, span)
    if named is not None:
        return named
    found = _stage_named(making, name, index)
    if found is not None:
        return FromStage(found)
    later = [stage for stage in stages[index:] if stage.name and stage.name.lower() == name.lower()]
    if later:
        raise making.text.error(
            f"stage needs to be defined before its use: {name}", span, "move the stage that others copy from up"
        )
    return FromImage(name)


def _mounted(making: _Making, index: int, run: Run) -> tuple[MountSource | None, ...]:
    """Return what the `from` of each mount of a RUN in stage `index` means."""
    return mounting.sources(run, making.text, lambda name: _source_of(making, index, name, run.span))


def _plan_stage(making: _Making, index: int) -> None:
    """Plan one stage into `making.done`, or note the image it lacks."""
    stage = making.dockerfile.stages[index]
    base = _base_of(making, stage)
    builder = _start(making, stage, base)
    if builder is None:
        return
    replaced = _replaced(making, stage) is not None
    triggers = [] if replaced else list(builder.triggers)
    builder.triggers.clear()
    for trigger in triggers:
        _apply(
            making,
            builder,
            index,
            parse_onbuild(trigger, making.dockerfile.escape, span=stage.from_.span),
            trigger=True,
        )
    for instruction in () if replaced else stage.instructions:
        _apply(making, builder, index, instruction)
    name = stage.name or f"stage-{index}"
    filtered = {item.lower() for item in making.request.no_cache_filter}
    no_cache = making.request.no_cache or name.lower() in filtered
    planned = PlannedStage(
        index=index,
        name=name,
        base=base,
        line=stage.from_.span.start_line,
        from_display=stage.from_.original,
        steps=tuple(builder.steps),
        config=builder.config(),
        author=builder.author,
        platform=builder.platform,
        no_cache=no_cache,
    )
    making.done[index] = (planned, builder)


def _start(making: _Making, stage: Stage, base: Base) -> StageBuilder | None:
    asked = _asked_platform(making, stage.from_)
    platform = asked or making.platform
    if isinstance(base, FromStage):
        if base.index not in making.done:
            return None
        _, parent = making.done[base.index]
        config, scope, author = parent.config(), parent.scope.copy(), parent.author
        # The files are those of the other stage, whatever this one says
        platform = parent.platform
    elif isinstance(base, FromImage):
        image = making.bases.get(base.key)
        is_asked = asked is not None or bool(making.request.platform)
        if image is None:
            making.missing[base.key] = NeededBase(base.reference, stage.from_.span.start_line, platform, is_asked)
            return None
        platform = _image_platform(making, stage.from_, base.reference, image, platform, is_asked=is_asked)
        config, author = image.config.config, image.config.author
        scope = Scope(config.Env or ())
    else:
        config, scope, author = RunConfig(WorkingDir="/"), Scope(), ""
    return StageBuilder(
        text=making.text,
        request=making.request,
        config=config,
        scope=scope,
        globals=making.globals,
        used_args=making.used_args,
        author=author,
        platform=platform,
    )


def _asked_platform(making: _Making, from_: From) -> Platform | None:
    """Return what `FROM --platform` says."""
    if from_.platform is None:
        return None
    wanted = making.text.expand(from_.platform, making.globals, from_.span)
    if not wanted:
        raise making.text.error(
            f"empty platform value from expression {from_.platform}", from_.span, "give the ARG in it a value"
        )
    try:
        return parse_platform(wanted, making.host)
    except UsageError as error:
        raise making.text.error(error.message, from_.span, error.hint) from error


def _image_platform(
    making: _Making, from_: From, reference: str, image: BaseImage, wanted: Platform, *, is_asked: bool
) -> Platform:
    """Return the platform of an image that FROM names; what was asked for must be had."""
    config = image.config
    if not config.os or not config.architecture:
        return wanted
    found = normalise(config.os, config.architecture, config.variant)
    if not runs_on(found, wanted):
        if is_asked:
            raise making.text.error(
                f"the image is for {found}, not for {wanted}: {reference}",
                from_.span,
                "bring one in by `pybuild pull --platform` or `pybuild load`, or leave out `--platform`",
            )
        if found.architecture == wanted.architecture and found.os == wanted.os:
            # What differs by more, the build checks tell
            warning = f"the base image is for {found}, expected {wanted}: {reference}"
            making.warnings.append(Warned(warning, from_.span.start_line))
    return found


def _need(making: _Making, source: MountSource | None, line: int) -> None:
    """Note an image that files are read from, unless it is known."""
    if isinstance(source, FromImage) and source.key not in making.bases:
        needed = NeededBase(source.reference, line, making.platform, bool(making.request.platform))
        making.missing.setdefault(source.key, needed)


def _apply(
    making: _Making, builder: StageBuilder, index: int, instruction: Instruction, *, trigger: bool = False
) -> None:
    source: CopySource = FromContext()
    if isinstance(instruction, Copy) and instruction.from_ is not None:
        source = _source_of(making, index, instruction.from_, instruction.span)
        _need(making, source, instruction.span.start_line)
    mounted = _mounted(making, index, instruction) if isinstance(instruction, Run) else ()
    for item in mounted:
        _need(making, item, instruction.span.start_line)
    if trigger and isinstance(instruction, Onbuild):
        raise making.text.error("ONBUILD in an ONBUILD trigger is not allowed", instruction.span)
    builder.apply(instruction, source, mounted)
