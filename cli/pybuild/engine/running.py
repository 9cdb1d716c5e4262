"""RUN: a sandbox on the layers below, its output as events, its changes as a layer."""

import codecs
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from signal import Signals
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from pybuild.api.events import StepLog
from pybuild.api.request import BuildRequest
from pybuild.engine.deadline import duration
from pybuild.engine.errors import BuildTimeoutError, RunFailedError, StepError
from pybuild.engine.networks import Joined
from pybuild.layer.tarwriter import Packed
from pybuild.oci.digest import Digest
from pybuild.plan.ops import RunOp
from pybuild.sandbox import certificates
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.spec import RunEnd, SandboxSpec
from pybuild.store.blobs import BlobWriter

if TYPE_CHECKING:
    from pybuild.engine.recovery import FailedRun
    from pybuild.engine.solve import Inputs

LOG_LINES = 20
"""How many last lines of output a failure repeats."""

LINE_LIMIT = 4000
DEFAULT_HOSTNAME = "buildkitsandbox"


def hostname(request: BuildRequest) -> str:
    """Return the host name that commands see."""
    return request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") or DEFAULT_HOSTNAME


class Ran(NamedTuple):
    """What a command changed, packed into an uncommitted blob; the caller owns that.

    `by_hand` tells that somebody had a hand in it after it had failed: it is not what the command does.
    """

    packed: Packed
    blob: BlobWriter
    by_hand: bool = False


def run(
    op: RunOp, inputs: "Inputs", diff_ids: Sequence[Digest], number: int, place: Callable[[StepError], None]
) -> Ran:
    """Run the command on the layers named; step `number` shows it, and `place` tells an error where it is.

    Raises RunFailedError for a status other than 0, SandboxError when the sandbox could not be made,
    CancelledError.
    """
    store, workers, request = inputs.store, inputs.workers, inputs.request
    network = inputs.networks.get(op.network)
    lowers = inputs.snapshots.lowers(diff_ids)
    staging = store.snapshots.staging()
    blob = store.blobs.create()
    try:
        spec = SandboxSpec(
            argv=op.argv,
            env=op.env + op.hidden_env + certificates.variables(request.ca_bundle, {name for name, _ in op.env}),
            cwd=op.cwd,
            user=op.user,
            network=network.mode,
            hostname=hostname(request),
            extra_hosts=network.hosts(request.extra_hosts),
            resolv_conf=network.resolv_conf,
            shm_size=request.shm_size,
            ulimits=(*inputs.limiter.ulimits, *((limit.name, limit.soft, limit.hard) for limit in request.ulimits)),
            mounts=certificates.mounts(request.ca_bundle),
            lowers=tuple(os.fsencode(path) for path in lowers),
            staging=os.fsencode(staging),
            scripts=op.scripts,
            emulation=workers.emulation(request.root_emulation),
        )
        by_hand = False
        try:
            packed = _attempt(op, spec, network, inputs, number, blob.fd)
        except StepError as error:
            if not request.on_fail:
                raise
            from pybuild.engine.recovery import FailedRun, recover

            place(error)
            failed = FailedRun(op, spec, network, staging, blob.fd, diff_ids, number)
            packed = recover(error, failed, inputs, partial(_once_more, failed, inputs, place))
            by_hand = True
        _publish(inputs, staging, packed.diff_id)
    except BaseException:
        blob.abort()
        workers.remove(staging)
        raise
    return Ran(packed, blob, by_hand)


def _attempt(op: RunOp, spec: SandboxSpec, network: Joined, inputs: "Inputs", number: int, tar: int) -> Packed:
    """Run the command once."""
    with inputs.limiter.group() as group:
        with _Output(lambda stream, text: inputs.emit(StepLog(number, stream, text))) as output:
            try:
                end, packed = inputs.workers.run(
                    spec,
                    output.stdout,
                    output.stderr,
                    tar,
                    network.namespace,
                    group.entries,
                    inputs.request.step_timeout,
                )
            except TimeoutError:
                raise _too_long(op, inputs.request.step_timeout, output.last) from None
            except SandboxError as error:
                # The kernel may choose the sandbox's own first process
                if not group.out_of_memory():
                    raise
                raise _out_of_memory(op, inputs.request.limits.memory, output.last, 137) from error
        if packed is None and group.out_of_memory():
            raise _out_of_memory(op, inputs.request.limits.memory, output.last, end.status)
    if packed is None:
        raise _failed(op, end, output.last)
    return packed


def _once_more(failed: "FailedRun", inputs: "Inputs", place: Callable[[StepError], None]) -> Packed:
    try:
        return _attempt(failed.op, failed.spec, failed.network, inputs, failed.number, failed.tar)
    except StepError as error:
        place(error)
        raise


def _publish(inputs: "Inputs", staging: Path, diff_id: Digest) -> None:
    """Keep the changed tree as the snapshot of the new layer: the next RUN starts from it at once."""
    name = inputs.snapshots.own_name(diff_id)
    if not inputs.store.snapshots.publish(staging, name):
        inputs.workers.remove_later(staging)


def _command(op: RunOp) -> str:
    shown = op.argv[-1] if len(op.argv) > 1 else " ".join(op.argv)
    command = " ".join(shown.split())
    if len(command) > 120:
        command = command[:117] + "..."
    return command


def _too_long(op: RunOp, seconds: float, log: Sequence[str]) -> BuildTimeoutError:
    message = f"RUN was ended: it took longer than {duration(seconds)}: {_command(op)}"
    return BuildTimeoutError(message, "`--step-timeout` gives it more time", log=tuple(log))


def _out_of_memory(op: RunOp, limit: int, log: Sequence[str], status: int) -> RunFailedError:
    size = f"{limit / (1 << 20):g} MB"
    message = f"RUN was killed: memory limit {size} reached: {_command(op)}"
    return RunFailedError(message, "`--memory` gives it more", log=tuple(log), status=status)


def _failed(op: RunOp, end: RunEnd, log: Sequence[str]) -> RunFailedError:
    status = end.status
    command = _command(op)
    if status > 128:
        try:
            how = f"was killed by {Signals(status - 128).name}"
        except ValueError:
            how = f"ended with exit code {status}"
    else:
        how = f"ended with exit code {status}"
    hints = {127: "the command was not found in the image", 126: "the command cannot be executed in the image"}
    hint = end.message or hints.get(status, "")
    return RunFailedError(f"RUN {how}: {command}", hint, log=tuple(log), status=status)


class _Output:
    """Two pipes read by a thread: text goes to `tell`, the last lines are kept."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._partial = ""

    @property
    def last(self) -> list[str]:
        """Return the last lines that were written."""
        return [*self._lines, *([self._partial] if self._partial else [])][-LOG_LINES:]

    def __enter__(self) -> "_Output":
        self._reads = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        (out_read, self.stdout), (err_read, self.stderr) = self._reads
        self._thread = Thread(target=self._read, args=(out_read, err_read), name="run-output", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.stdout)
        os.close(self.stderr)
        # Every writer is gone with the pid namespace; the limit guards against one that escaped a bug
        self._thread.join(timeout=10)

    def _read(self, out_read: int, err_read: int) -> None:
        decoders = {
            out_read: (codecs.getincrementaldecoder("utf-8")("replace"), "stdout"),
            err_read: (codecs.getincrementaldecoder("utf-8")("replace"), "stderr"),
        }
        with DefaultSelector() as selector:
            for fd in decoders:
                selector.register(fd, EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, 65536)
                    decoder, stream = decoders[key.fd]
                    text = decoder.decode(data, final=not data)
                    if text:
                        self._keep(text)
                        self._tell(stream, text)
                    if not data:
                        selector.unregister(key.fd)
                        os.close(key.fd)

    def _keep(self, text: str) -> None:
        *lines, self._partial = (self._partial + text).split("\n")
        self._lines.extend(line[:LINE_LIMIT] for line in lines)
        self._partial = self._partial[:LINE_LIMIT]
