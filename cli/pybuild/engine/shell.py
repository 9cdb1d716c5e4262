"""`pybuild shell`: a command in the tree of an image, whose changes go, or of a kept step, whose changes stay."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event as Flag

import msgspec

from pybuild.api.events import Event, Notice, ShellEnded, ShellOpened
from pybuild.api.request import ShellRequest
from pybuild.engine.attach import Streams, Visit
from pybuild.engine.grounds import Grounds
from pybuild.engine.networks import Networks
from pybuild.engine.recovery import DEFAULT_SHELL, on_terminal, shell_of
from pybuild.engine.running import DEFAULT_HOSTNAME
from pybuild.engine.snapshots import Snapshots
from pybuild.engine.whole import make_whole
from pybuild.engine.workers import Workers
from pybuild.errors import ConflictError, NotFoundError
from pybuild.sandbox.spec import SandboxSpec
from pybuild.store import kept
from pybuild.store.store import Store

NO_STEP = -1


class World(msgspec.Struct, frozen=True):
    """What is to be run; the network is the one wanted."""

    spec: SandboxSpec
    network: str


def run_shell(request: ShellRequest, *, store_root: Path, emit: Callable[[Event], None], cancel: Flag) -> ShellEnded:
    """Run what is asked for; the event that is returned is the last. Its user attaches by the token of ShellOpened.

    Setting `cancel` ends it soon with CancelledError. Raises NotFoundError for a name that is neither, and other
    PybuildErrors when there is nothing to run.
    """
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(store_root))
        stack.enter_context(store.session())
        workers = stack.enter_context(Workers(cancel, request.isolation))
        for left_over in store.sweep():
            workers.remove_if_possible(left_over)
        if kept.is_name(request.name) and store.kept.has(request.name):
            world = stack.enter_context(_kept_world(request, store, workers))
        else:
            world = stack.enter_context(_image_world(request, store, workers, emit, cancel))
        for notice in (
            *store.notices,
            *workers.notices(request.root_emulation, lambda text: emit(Notice("info", text))),
        ):
            emit(Notice("info", notice))
        network = stack.enter_context(Networks(workers, emit)).get(world.network)
        spec = msgspec.structs.replace(
            world.spec,
            network=network.mode,
            resolv_conf=network.resolv_conf,
        )
        streams = Streams(terminal=request.terminal)
        visit = stack.enter_context(Visit(streams))
        emit(ShellOpened(NO_STEP, visit.token, time.time()))
        visit.wait(workers.check)
        end = workers.shell(spec, streams.stdout, streams.stderr, streams.stdin, network.namespace)
        return ShellEnded(NO_STEP, visit.token, time.time(), end.status, end.message)


def _asked(spec: SandboxSpec, shell: tuple[str, ...], request: ShellRequest) -> SandboxSpec:
    """Return `spec` with what the request says: what to run, and how its world differs."""
    env = {**dict(spec.env), **request.proxies, **request.env}
    changed = msgspec.structs.replace(
        spec,
        argv=request.command or shell,
        env=tuple(env.items()),
        user=request.user or spec.user,
        cwd=os.path.join(spec.cwd, request.workdir),
        stdin="given",
    )
    return on_terminal(changed, changed.argv, request.term) if request.terminal else changed


def _grounds(store: Store, workers: Workers, request: ShellRequest) -> Grounds:
    return Grounds(store, workers, Snapshots(store, workers), request.snapshotter)


@contextmanager
def _image_world(
    request: ShellRequest, store: Store, workers: Workers, emit: Callable[[Event], None], cancel: Flag
) -> Iterator[World]:
    record = store.images.resolve(request.name)
    if record is None:
        if kept.is_name(request.name):
            raise NotFoundError(f"no such kept step: {request.name}", "it has made room for later ones, or was pruned")
        name = request.name
        raise NotFoundError(f"No such image: {name if ':' in name or '@' in name else name + ':latest'}")
    make_whole(store, record, emit, cancel)
    config = record.config.config
    shell = shell_of([*(config.Shell or ()), ""])
    ground = _grounds(store, workers, request).take(record.diff_ids)
    try:
        spec = SandboxSpec(
            argv=DEFAULT_SHELL,
            lowers=ground.lowers,
            staging=os.fsencode(ground.staging),
            snapshotter=ground.snapshotter,
            isolation=workers.isolation,
            env=tuple((name, value) for name, _, value in (item.partition("=") for item in config.Env or ())),
            cwd=config.WorkingDir or "/",
            user=config.User,
            hostname=DEFAULT_HOSTNAME,
            emulation=workers.emulation(request.root_emulation),
        )
        yield World(_asked(spec, shell, request), request.network or "default")
    finally:
        workers.remove(ground.staging)


@contextmanager
def _kept_world(request: ShellRequest, store: Store, workers: Workers) -> Iterator[World]:
    with store.kept.using(request.name) as (directory, step):
        if step.mode != workers.mode:
            raise ConflictError(
                f"the step was kept with ids mapped in another way ({step.mode}, now {workers.mode}): {request.name}",
                "build again",
            )
        world = SandboxSpec.from_wire(msgspec.msgpack.decode(step.world))
        # A whole tree needs no layers below
        stacked = world.snapshotter == "overlay"
        if stacked and workers.isolation == "chroot":
            raise ConflictError(
                f"the step was kept as changes to layers, which cannot be stacked here: {request.name}", "build again"
            )
        lowers = _grounds(store, workers, request).lowers(step.diff_ids) if stacked else ()
        spec = msgspec.structs.replace(
            world, staging=os.fsencode(directory), lowers=lowers, isolation=workers.isolation, set_gid=None
        )
        yield World(_asked(spec, shell_of(world.argv), request), request.network or step.network)
