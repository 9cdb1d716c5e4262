"""A RUN that failed, and what its user may do: look into its tree, edit it, go on from there, or keep it for later.

What was continued by hand is the result of this build alone. It is never recorded in the cache: the same step
elsewhere would not come out like that.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pybuild.api.events import ABORT, ACCEPT, AGAIN, RETRY, Notice, ShellEnded, ShellOpened
from pybuild.engine.attach import Streams, Visit
from pybuild.engine.errors import StepError
from pybuild.engine.failure import failure_of
from pybuild.engine.networks import Joined
from pybuild.errors import PybuildError
from pybuild.layer.tarwriter import Packed
from pybuild.oci.digest import Digest
from pybuild.plan.ops import RunOp
from pybuild.sandbox import certificates
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.spec import SandboxSpec
from pybuild.store.kept import KeptStep

if TYPE_CHECKING:
    from pybuild.engine.solve import Inputs

DEFAULT_SHELL = ("/bin/sh",)
LOCK_SECONDS = 0.1


class FailedRun(msgspec.Struct, frozen=True):
    """What was run, and where: `staging` holds its tree, `tar` is the layer to be, `number` the step shown."""

    op: RunOp
    spec: SandboxSpec
    network: Joined
    staging: Path
    tar: int
    diff_ids: Sequence[Digest]
    number: int


def recover(error: StepError, failed: FailedRun, inputs: "Inputs", again: Callable[[], Packed]) -> Packed:
    """Return the layer the user came to in the end; raise the error of the last try otherwise, its tree kept.

    `again` runs the command once more on the tree as it is. Raises CancelledError.
    """
    while inputs.request.on_fail == "shell":
        with _my_turn(inputs), inputs.deadline.held():
            decision = _visit(error, failed, inputs)
            while decision == AGAIN:
                decision = _visit(error, failed, inputs)
        if decision == ABORT:
            break
        if decision == ACCEPT:
            return inputs.workers.pack(failed.staging / "fs", failed.spec.lowers, failed.tar)
        assert decision == RETRY
        try:
            return again()
        except StepError as another:
            error = another
    if inputs.request.on_fail:
        error.kept = _keep(failed, inputs)
    raise error


@contextmanager
def _my_turn(inputs: "Inputs") -> Iterator[None]:
    # A terminal shows one shell at a time; stages that fail meanwhile wait
    while not inputs.turn.acquire(timeout=LOCK_SECONDS):
        inputs.workers.check()
    try:
        inputs.workers.check()
        yield
    finally:
        inputs.turn.release()


def shell_of(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the shell a command was run by, without its options; /bin/sh when it was none.

    SHELL is not asked: after the step it may name one that is not installed yet.
    """
    if len(argv) > 2 and argv[-2].startswith("-") and argv[-2].endswith("c"):
        return tuple(takewhile(lambda word: not word.startswith("-"), argv)) or DEFAULT_SHELL
    return DEFAULT_SHELL


def on_terminal(spec: SandboxSpec, argv: Sequence[str], term: str) -> SandboxSpec:
    """Return the spec of a shell in the same world, on a terminal of kind `term`."""
    named = any(name == "TERM" for name, _ in spec.env)
    env = spec.env if named or not term else (*spec.env, ("TERM", term))
    return msgspec.structs.replace(spec, argv=tuple(argv), env=env, stdin="terminal")


def _visit(error: StepError, failed: FailedRun, inputs: "Inputs") -> str:
    """Open a shell in the failed tree and return how its visitor wants to go on."""
    request, number = inputs.request, failed.number
    spec = on_terminal(failed.spec, request.shell_command or shell_of(failed.op.argv), request.term)
    streams = Streams(terminal=True)
    with Visit(streams) as visit:
        inputs.emit(ShellOpened(number, visit.token, time.time(), failure_of(error)))
        visit.wait(inputs.workers.check)
        status, message = -1, ""
        try:
            with inputs.limiter.group() as group:
                end = inputs.workers.shell(
                    spec, streams.stdout, streams.stderr, network=failed.network.namespace, groups=group.entries
                )
            status, message = end.status, end.message
        except SandboxError as problem:
            # The step may have removed its own working directory, or its user
            message = problem.message
        streams.close_inner()
        inputs.emit(ShellEnded(number, visit.token, time.time(), status, message))
        return visit.decision(inputs.workers.check)


def _keep(failed: FailedRun, inputs: "Inputs") -> str:
    """Keep the tree of a step and return its name, "" when that cannot be done."""
    store, workers = inputs.store, inputs.workers
    try:
        name = store.kept.keep(failed.staging, _description(failed, inputs))
        for path in store.kept.make_room():
            workers.remove(path)
    except PybuildError as problem:
        # The failure of the step is what matters
        inputs.emit(Notice("warning", problem.message))
        return ""
    if not store.kept.has(name):
        inputs.emit(Notice("warning", "the failed step's tree is too large to be kept"))
        return ""
    return name


def _description(failed: FailedRun, inputs: "Inputs") -> KeptStep:
    world = _world(failed, inputs.request.ca_bundle)
    return KeptStep([*failed.diff_ids], inputs.workers.mode, failed.op.network, world)


def _world(failed: FailedRun, ca_bundle: str) -> bytes:
    """Return what a shell needs to be in the step's world later on.

    What is written down is named here one by one: never a proxy, which may hold a password, nor any secret.
    """
    spec, op = failed.spec, failed.op
    return msgspec.msgpack.encode(
        SandboxSpec(
            argv=op.argv,
            lowers=(),
            staging=b"",
            env=op.env + certificates.variables(ca_bundle, {name for name, _ in op.env}),
            cwd=op.cwd,
            user=op.user,
            hostname=spec.hostname,
            extra_hosts=spec.extra_hosts,
            shm_size=spec.shm_size,
            ulimits=spec.ulimits,
            mounts=certificates.mounts(ca_bundle),
            scripts=op.scripts,
            emulation=spec.emulation,
            snapshotter=spec.snapshotter,
        ).to_wire()
    )
