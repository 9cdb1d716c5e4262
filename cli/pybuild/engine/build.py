"""A build from request to image: the one place where all rooms meet."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from pybuild.api.events import Built, Checked, Event, Notice, Planned, PlannedStep
from pybuild.api.request import BuildRequest
from pybuild.context.errors import ContextError
from pybuild.context.local import LocalContext
from pybuild.dockerfile.frontend import ARGUMENT as FRONTEND
from pybuild.dockerfile.parse import Dockerfile, parse
from pybuild.engine import checking, exporting, inputs, platforms, reading
from pybuild.engine.bindtrees import BindTrees
from pybuild.engine.deadline import Deadline
from pybuild.engine.explaining import Explainer
from pybuild.engine.grounds import Grounds
from pybuild.engine.named import NamedContexts
from pybuild.engine.networks import Networks
from pybuild.engine.pulling import Puller
from pybuild.engine.recorded import record
from pybuild.engine.registries import RegistryClients
from pybuild.engine.remotes import Remotes
from pybuild.engine.resolve import NEVER, Bases
from pybuild.engine.snapshots import Snapshots
from pybuild.engine.solve import Inputs, Solver, StageState, numbered, timestamp
from pybuild.engine.sources import ContextSource
from pybuild.engine.whole import read_images
from pybuild.engine.workers import Workers
from pybuild.errors import CancelledError, PybuildError
from pybuild.oci.digest import Digest
from pybuild.oci.image import ImageConfig, RootFS, encode
from pybuild.oci.platform import Platform
from pybuild.oci.reference import Reference, parse_reference
from pybuild.plan.epoch import Moment
from pybuild.plan.make import make
from pybuild.plan.ops import BaseImage, NeedBases, Plan
from pybuild.sandbox.cgroups import Limiter
from pybuild.store.cache import CacheRecord
from pybuild.store.store import Store

if TYPE_CHECKING:
    from pybuild.engine.caching import Directories
    from pybuild.engine.giving import Giving
    from pybuild.engine.pushing import Push


def build(
    request: BuildRequest,
    *,
    store_root: Path,
    context_stream: BinaryIO | None,
    emit: Callable[[Event], None],
    cancel: Flag,
    received: inputs.Received | None = None,
    directories: "Directories | None" = None,
) -> Built | Checked:
    """Build what `request` asks for, or only check it; the store below `store_root` is made when absent.

    `context_stream` is a tar (compressed or not) or a bare Dockerfile when `request.context` is "", unless the context
    is `received`. `directories` has those of caches, if they are not this machine's. `emit` gets every event but the
    last, from several threads but one at a time. Setting `cancel` ends the build soon with CancelledError. Raises a
    PybuildError; what was finished stays in the cache.
    """
    if request.call == "check":
        return checking.check_only(
            request, store_root=store_root, context_stream=context_stream, cancel=cancel, received=received
        )

    def now(emit: Callable[[Event], None]) -> Built:
        return _build(
            request,
            store_root=store_root,
            context_stream=context_stream,
            emit=emit,
            cancel=cancel,
            received=received,
            directories=directories,
        )

    if not request.max_size and not request.min_free:
        return now(emit)
    from pybuild.engine.trimming import trimmed

    return trimmed(request, store_root, emit, now)


def _build(
    request: BuildRequest,
    *,
    store_root: Path,
    context_stream: BinaryIO | None,
    emit: Callable[[Event], None],
    cancel: Flag,
    received: inputs.Received | None,
    directories: "Directories | None",
) -> Built:
    tags = [parse_reference(tag) for tag in request.tags]
    exporting.check(request.outputs, several="," in request.platform)
    host = inputs.host()
    with ExitStack() as stack:
        deadline = stack.enter_context(Deadline(request.timeout, cancel))
        stack.enter_context(_timeouts(deadline))
        store = stack.enter_context(Store.open(store_root))
        stack.enter_context(store.session())
        if request.max_size or request.min_free:
            store.cache.note_every_use()
        workers = stack.enter_context(Workers(cancel, request.isolation))
        # Before there is a worker, which stays in the group it starts in
        limiter = Limiter(request.limits, [os.getpid()])
        limits_told = limiter.prepare()
        for left_over in store.sweep():
            workers.remove_if_possible(left_over)
        emit = _serialised(emit)
        remotes = Remotes(store, request, cancel, emit)
        given = stack.enter_context(
            inputs.open_inputs(request, context_stream, store, workers, remotes, cancel, received)
        )
        frontend = request.build_args.get(FRONTEND) or ""
        dockerfile = parse(given.dockerfile_text, name=given.dockerfile_name, frontend=frontend)
        clients = RegistryClients(request.registries, request.proxies, request.ca_bundle, cancel)
        puller = Puller(store, workers, stack.enter_context(clients), emit)
        # Before anything is fetched that would be of no use
        pushes = _pushes(request, tags, store, clients, puller, emit)
        stays = _is_for_registries(request)
        found = Bases(dockerfile, store, workers, puller, request.pull, host, layers=not stays)
        moment = partial(inputs.moment, store=store, workers=workers, remotes=remotes)

        def plan_one(own: BuildRequest) -> tuple[Plan, dict[str, BaseImage]]:
            plan, bases = _plan(dockerfile, own, found, host, given.moment, moment)
            if stays:
                found.complete(sorted(read_images(plan)))
            return plan, bases

        targets = platforms.plan_all(request, host, plan_one)
        plan, bases = targets.plan, targets.bases
        platforms.check_emulators(plan, dockerfile, host, request, store)
        shown = numbered(plan.stages)
        emit(Planned(tuple(PlannedStep(label, name, line) for _, label, name, line in shown), time.time()))
        if request.watch:
            emit(reading.planned(plan))
        if received is not None:
            received.read(reading.planned(plan))
        checking.tell(dockerfile, targets.each, given.context, emit)
        for warning in plan.warnings:
            emit(Notice("warning", warning.message, warning.line))
        for notice in (*store.notices, *workers.notices(request.root_emulation, partial(_inform, emit))):
            emit(Notice("info", notice))
        for told in limits_told:
            emit(Notice("warning", told))
        context = ContextSource(given.context)
        explainer = Explainer(store, request, dockerfile.name, plan.stages, emit, carries=_carries_cache(request))
        recorded = stack.enter_context(explainer.recording(len(shown) - len(plan.stages)))
        named = stack.enter_context(NamedContexts(store, workers, request, remotes, given.context.root))
        giving = _giving(request, store, targets, puller, emit, cancel)
        if giving is not None:
            stack.enter_context(giving)
        solving = Inputs(
            store=store,
            request=request,
            context=context,
            images={key: base.config for key, base in bases.items()},
            workers=workers,
            limiter=limiter,
            deadline=deadline,
            networks=stack.enter_context(Networks(workers, emit)),
            grounds=Grounds(store, workers, Snapshots(store, workers), request.snapshotter),
            binds=stack.enter_context(BindTrees(store, workers)),
            remotes=remotes,
            explainer=explainer,
            named=named,
            elsewhere=_elsewhere(request, store, workers, clients, puller, targets, emit, directories),
            offer=giving.offer if giving is not None else lambda stage, diff_id: None,
            emit=emit,
            cancel=cancel,
            file=dockerfile.name,
            text=dockerfile.text,
        )
        solver = Solver(plan, solving, shown)
        solver.solve()
        states = [solver.state(target.place) for target in targets.each]
        for remembering in [given.context] * given.remembers + named.remembering():
            _remember(remembering, emit)
        if cancel.is_set():
            raise CancelledError("the build was cancelled")
        built = _commit_all(targets, states, store, tags, request)
        for push in pushes:
            built = push.carry_out(built)
        if request.cache_to:
            _give_cache(request, store, states, solver, giving, emit, directories)
        recorded(built.image_id)
        if request.remembers:
            record(store, Digest(built.image_id), request, {name: base.id for name, base in bases.items()})
        return built


def _is_for_registries(request: BuildRequest) -> bool:
    """Does the image go to registries alone, so that layers of its base that no step reads need not come here?"""
    return bool(request.outputs) and all(output.type == exporting.REGISTRY for output in request.outputs)


@contextmanager
def _timeouts(deadline: Deadline) -> Iterator[None]:
    """Tell of a build that was cancelled for its time."""
    try:
        yield
    except CancelledError as error:
        if deadline.passed:
            raise deadline.error() from error
        raise


def _pushes(
    request: BuildRequest,
    tags: list[Reference],
    store: Store,
    clients: RegistryClients,
    puller: Puller,
    emit: Callable[[Event], None],
) -> "list[Push]":
    """Return what is to be pushed when it is built; raise RegistryError where that is not allowed."""
    outputs = [output for output in request.outputs if output.type == exporting.REGISTRY]
    if not outputs:
        return []
    from pybuild.engine.pushing import Push, Pusher

    pusher = Pusher(store, clients, emit, puller.complete)
    pushes = [Push(output, tags, store, pusher) for output in outputs]
    for push in pushes:
        pusher.check(push.names)
    return pushes


def _elsewhere(
    request: BuildRequest,
    store: Store,
    workers: Workers,
    clients: RegistryClients,
    puller: Puller,
    targets: platforms.Targets,
    emit: Callable[[Event], None],
    directories: "Directories | None",
) -> Callable[[str], CacheRecord | None]:
    """Return what looks a key up where `--cache-from` says."""
    if not request.cache_from:
        return lambda key: None
    from pybuild.engine.caching import Elsewhere, Here
    from pybuild.engine.remotecache import RemoteCaches

    wanted = [target.plan.target.platform for target in targets.each]
    remote = RemoteCaches(clients, puller) if request.pull != NEVER else None
    return Elsewhere(store, workers, request.cache_from, remote, wanted, emit, directories or Here()).get


def _giving(
    request: BuildRequest,
    store: Store,
    targets: platforms.Targets,
    puller: Puller,
    emit: Callable[[Event], None],
    cancel: Flag,
) -> "Giving | None":
    """Return what sends results to the registries that `--cache-to` names, None when it names none."""
    if all(target.type != "registry" for target in request.cache_to):
        return None
    from pybuild.engine.giving import Giving

    places = {target.place for target in targets.each}
    return Giving(request, store, targets.plan, places, puller.complete, emit, cancel)


def _give_cache(
    request: BuildRequest,
    store: Store,
    states: Sequence[StageState],
    solver: Solver,
    giving: "Giving | None",
    emit: Callable[[Event], None],
    directories: "Directories | None",
) -> None:
    """Write the results to the directories and registries that `--cache-to` names."""
    from pybuild.engine.caching import Here, export

    for target in request.cache_to:
        if target.type not in ("local", "registry"):
            continue
        everything = target.attrs.get("mode", "min") == "max"
        try:
            least = dict(result for state in states for result in state.results)
            export(
                store,
                target,
                solver.results() if everything else list(least.items()),
                giving if target.type == "registry" else None,
                directories or Here(),
            )
        except CancelledError:
            raise
        except PybuildError as error:
            # The image is built and perhaps pushed; a registry that is away is no reason to do it again
            ignored = target.attrs.get("ignore-error", "true" if target.type == "registry" else "false")
            if ignored.lower() not in ("true", "1"):
                raise
            emit(Notice("warning", error.message))


def _remember(context: LocalContext, emit: Callable[[Event], None]) -> None:
    try:
        context.save()
    except ContextError as error:
        # The next build reads the files again, that is all
        emit(Notice("warning", error.message))


def _inform(emit: Callable[[Event], None], text: str) -> None:
    emit(Notice("info", text))


def _serialised(emit: Callable[[Event], None]) -> Callable[[Event], None]:
    lock = Lock()

    def one_at_a_time(event: Event) -> None:
        with lock:
            emit(event)

    return one_at_a_time


def _plan(
    dockerfile: Dockerfile,
    request: BuildRequest,
    images: Bases,
    host: Platform,
    context_time: Callable[[], int],
    moment: Moment,
) -> tuple[Plan, dict[str, BaseImage]]:
    bases: dict[str, BaseImage] = {}
    while True:
        step = make(dockerfile, request, bases, host, context_time, moment)
        if isinstance(step, Plan):
            return step, bases
        assert isinstance(step, NeedBases)
        bases.update(images.read(step))


def _commit_all(
    targets: platforms.Targets,
    states: Sequence[StageState],
    store: Store,
    tags: list[Reference],
    request: BuildRequest,
) -> Built:
    """Store an image, or one for each platform and an index of them, tag it and export it."""
    epoch = targets.plan.source_date_epoch
    several = len(targets.each) > 1
    images = [
        _commit(target, state, store, [] if several else tags)
        for target, state in zip(targets.each, states, strict=True)
    ]
    identity = platforms.put_index(store, images, tags) if several else images[0]
    exported = [
        exporting.export(store, identity, tags, output, epoch)
        for output in request.outputs
        if output.dest not in ("-", "")
    ]
    names = tuple(tag.familiar() for tag in tags)
    made_for = tuple(str(target.plan.target.platform) for target in targets.each) if several else ()
    return Built(identity, names, time.time(), exported=tuple(exported), source_date_epoch=epoch, platforms=made_for)


def _commit(target: platforms.Target, state: StageState, store: Store, tags: list[Reference]) -> Digest:
    """Fold layers and config into an image, store it, tag it and return its id."""
    plan, request = target.plan, target.request
    config = plan.target.config
    if plan.labels:
        config = msgspec.structs.replace(config, Labels={**(config.Labels or {}), **plan.labels})
    epoch = plan.source_date_epoch
    platform = plan.target.platform
    diff_ids = state.diff_ids
    if request.rewrite_timestamp and epoch is not None:
        from pybuild.engine.rewriting import rewrite

        base = state.base_layers
        diff_ids = [*diff_ids[:base], *rewrite(store, diff_ids[base:], epoch)]
    created = timestamp(epoch) if epoch is not None else state.created or timestamp(0)
    image = ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        created=created,
        author=state.author,
        config=config,
        rootfs=RootFS(diff_ids=diff_ids),
        history=state.history,
        cache=_inline_cache(request, state, diff_ids, epoch),
    )
    return store.images.put(encode(image), tags=tags)


def _inline_cache(request: BuildRequest, state: StageState, diff_ids: list[Digest], epoch: int | None) -> bytes | None:
    """Return what the image's config is to carry of the results, if it was asked for."""
    if not _carries_cache(request):
        return None
    from pybuild.engine.caching import inline

    return inline(state.results, state.told, diff_ids, epoch)


def _carries_cache(request: BuildRequest) -> bool:
    wanted = request.build_args.get("BUILDKIT_INLINE_CACHE") or ""
    return wanted.lower() in ("1", "true") or any(target.type == "inline" for target in request.cache_to)
