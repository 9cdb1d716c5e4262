"""Build checks: with a build, and instead of one. Nothing is made, pulled or run for them."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event as Flag
from typing import BinaryIO

from pybuild.api.events import Checked, Event, Failure, Finding, Notice
from pybuild.api.request import BuildRequest
from pybuild.checks.check import BUILD_ARG, Facts, Ignored, check, settings_of
from pybuild.context.local import LocalContext
from pybuild.dockerfile.errors import DockerfileError, Span
from pybuild.dockerfile.frontend import ARGUMENT as FRONTEND
from pybuild.dockerfile.parse import Dockerfile, parse
from pybuild.engine import inputs
from pybuild.engine.failure import failure_of
from pybuild.engine.platforms import Target, requests_of
from pybuild.engine.remotes import Remotes
from pybuild.engine.resolve import LEAST_ID
from pybuild.engine.workers import Workers
from pybuild.errors import CancelledError, PybuildError, UsageError
from pybuild.oci.digest import Digest
from pybuild.oci.image import ImageConfig
from pybuild.oci.platform import Platform, parse_platform
from pybuild.oci.reference import InvalidReferenceError
from pybuild.plan.contexts import IMAGE, LAYOUT
from pybuild.plan.make import make
from pybuild.plan.ops import BaseImage, NeedBases, NeededBase
from pybuild.store.images import ImageRecord
from pybuild.store.store import Store

ABSENT = BaseImage(Digest("sha256:" + 64 * "0"), ImageConfig())
"""Stands for a base image that is not here."""


def tell(
    dockerfile: Dockerfile, targets: Sequence[Target], context: LocalContext, emit: Callable[[Event], None]
) -> None:
    """Check what a build uses of a file and emit what is found; raise DockerfileError where that is to be an error."""
    request = targets[0].request
    settings = settings_of(dockerfile, request.build_args)
    found: dict[Finding, None] = {}
    for target in targets:
        configs = {key: base.config for key, base in target.bases.items()}
        only = {stage.index for stage in target.plan.stages}
        facts = _facts(target.request, inputs.host(), configs, context, only)
        found.update(dict.fromkeys(check(dockerfile, settings, facts)))
    for finding in found:
        emit(Notice("warning", finding.message, finding.line, finding.rule))
    if found and settings.error:
        raise _violation(dockerfile, request, list(found))


def check_only(
    request: BuildRequest,
    *,
    store_root: Path,
    context_stream: BinaryIO | None,
    cancel: Flag,
    received: inputs.Received | None = None,
) -> Checked:
    """Look at the Dockerfile of `request` and tell what the checks, or a build, have to say against it.

    All stages are looked into, or those that `request.target` needs. Base images that are not in the store count as
    empty. Raises PybuildError when there is no Dockerfile to look at.
    """
    host = inputs.host()
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(store_root))
        stack.enter_context(store.session())
        workers = stack.enter_context(Workers(cancel))
        remotes = Remotes(store, request, cancel)
        given = stack.enter_context(
            inputs.open_inputs(request, context_stream, store, workers, remotes, cancel, received)
        )
        text = given.dockerfile_text
        shown = text if isinstance(text, str) else text.decode(errors="replace")
        shown = shown.removeprefix("\ufeff")
        try:
            dockerfile = parse(text, name=given.dockerfile_name, frontend=request.build_args.get(FRONTEND) or "")
        except DockerfileError as error:
            return Checked(given.dockerfile_name, shown, (), False, time.time(), _failure(error))
        settings = settings_of(dockerfile, request.build_args)
        failure: Failure | None = None
        together: dict[Finding, None] = {}
        for own in _for_each(request, host):
            failed, bases, only = _planned(dockerfile, own, store, host)
            failure = failure or failed
            facts = _facts(own, host, bases, given.context, only if request.target else None)
            together.update(dict.fromkeys(check(dockerfile, settings, facts)))
        found = list(together)
        if failure is None and found and settings.error:
            failure = _failure(_violation(dockerfile, request, found))
        if cancel.is_set():
            raise CancelledError("the check was cancelled")
        return Checked(dockerfile.name, shown, tuple(found), settings.error, time.time(), failure)


def _for_each(request: BuildRequest, host: Platform) -> list[BuildRequest]:
    """Return what is asked for each platform; what is wrong with these, planning tells."""
    if "," not in request.platform:
        return [request]
    try:
        return [*requests_of(request, host).values()]
    except UsageError:
        return [request]


def _planned(
    dockerfile: Dockerfile, request: BuildRequest, store: Store, host: Platform
) -> tuple[Failure | None, dict[str, ImageConfig], Collection[int] | None]:
    """Return what planning fails with, the bases that are here, and the stages it needs (None: not known)."""
    bases: dict[str, BaseImage] = {}
    known: dict[str, ImageConfig] = {}
    try:
        while isinstance(step := make(dockerfile, request, bases, host), NeedBases):
            for key, needed in step.images.items():
                record = _in_store(needed, store, dockerfile)
                if record is not None:
                    known[key] = record.config
                bases[key] = BaseImage(record.id, record.config) if record is not None else ABSENT
    except PybuildError as error:
        return _failure(error), known, None
    return None, known, {stage.index for stage in step.stages}


def _in_store(needed: NeededBase, store: Store, dockerfile: Dockerfile) -> ImageRecord | None:
    """Return the image when it is here; raise DockerfileError for a name that cannot be one."""
    reference, line = needed.reference, needed.line
    if reference.startswith(LAYOUT):
        return None
    try:
        return store.images.resolve(reference, ids=len(reference) >= LEAST_ID, platform=needed.platform)
    except InvalidReferenceError as error:
        source = dockerfile.text.split("\n")[line - 1].rstrip("\r")
        span = Span(line, line, 1, max(len(source), 1))
        raise DockerfileError(error.message, error.hint, file=dockerfile.name, span=span, source=source) from error


def _facts(
    request: BuildRequest,
    host: Platform,
    bases: Mapping[str, ImageConfig],
    context: LocalContext,
    only: Collection[int] | None,
) -> Facts:
    ignore = context.ignore
    try:
        platform = parse_platform(request.platform, host) if request.platform else host
    except UsageError:
        # Whoever plans the build tells it
        platform = host
    # FROM may call an image by the name of a context
    named = {name: value.removeprefix(IMAGE) for name, value in request.build_contexts.items()}
    return Facts(
        host=host,
        platform=platform,
        target=request.target,
        build_args=request.build_args,
        bases={**bases, **{name: bases[image] for name, image in named.items() if image in bases}},
        ignored=Ignored(tuple(ignore.patterns), ignore.matches) if ignore else None,
        only=only,
    )


def _violation(dockerfile: Dockerfile, request: BuildRequest, found: list[Finding]) -> DockerfileError:
    rules = ", ".join(dict.fromkeys(finding.rule for finding in found))
    if request.build_args.get(BUILD_ARG) is None:
        hint = "the file asks for this with `# check=error=true`; `# check=skip=RULE` leaves a rule out"
    else:
        hint = f"`--build-arg {BUILD_ARG}` asks for this; `skip=RULE` in there leaves a rule out"
    return DockerfileError(f"lint violation found for rules: {rules}", hint, file=dockerfile.name)


def _failure(error: PybuildError) -> Failure:
    # How the program got there says nothing to whoever made a mistake in a Dockerfile
    return failure_of(error)._replace(traceback="")
