"""RUN: a sandbox on the layers below, its output as events, its changes as a layer."""

import errno
import os
from codecs import IncrementalDecoder, getincrementaldecoder
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from signal import Signals
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pybuild.api.events import Notice, StepLog
from pybuild.api.request import BuildRequest
from pybuild.engine.deadline import duration
from pybuild.engine.errors import BuildTimeoutError, RunFailedError, StepError
from pybuild.engine.inputs import host
from pybuild.engine.mounting import Mounted
from pybuild.engine.networks import Joined
from pybuild.engine.redact import Redactor
from pybuild.layer.tarwriter import Packed
from pybuild.oci.digest import Digest
from pybuild.oci.platform import parse_platform
from pybuild.plan.ops import RunOp
from pybuild.sandbox import advice, certificates, volumes
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.spec import RunEnd, SandboxSpec
from pybuild.store.blobs import BlobWriter

if TYPE_CHECKING:
    from pybuild.engine.solve import Inputs

LOG_LINES = 20
"""How many last lines of output a failure repeats."""

LINE_LIMIT = 4000
_NOT_EXECUTABLE = 126
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
    op: RunOp,
    inputs: "Inputs",
    diff_ids: Sequence[Digest],
    mounted: Mounted,
    number: int,
    line: int,
    place: Callable[[StepError], None],
) -> Ran:
    """Run the command of that line on the layers named; step `number` shows it, `place` tells an error where it is.

    Raises RunFailedError for a status other than 0, SandboxError when the sandbox could not be made,
    CancelledError.
    """
    store, workers, request = inputs.store, inputs.workers, inputs.request
    network = inputs.networks.get(op.network)
    ground = inputs.grounds.take(diff_ids)
    staging = ground.staging
    blob = store.blobs.create()
    try:
        spec = SandboxSpec(
            argv=op.argv,
            env=(
                *(op.env + op.hidden_env),
                *certificates.variables(request.ca_bundle, {name for name, _ in op.env}),
                *mounted.env,
            ),
            cwd=op.cwd,
            user=op.user,
            network=network.mode,
            hostname=hostname(request),
            extra_hosts=network.hosts(request.extra_hosts),
            resolv_conf=network.resolv_conf,
            shm_size=request.shm_size,
            ulimits=(*inputs.limiter.ulimits, *((limit.name, limit.soft, limit.hard) for limit in request.ulimits)),
            mounts=certificates.mounts(request.ca_bundle),
            volumes=mounted.volumes,
            insecure=op.insecure,
            lowers=ground.lowers,
            staging=os.fsencode(staging),
            scripts=op.scripts,
            emulation=workers.emulation(request.root_emulation),
            snapshotter=ground.snapshotter,
            isolation=workers.isolation,
        )
        by_hand = False

        def attempt(world: SandboxSpec) -> Packed:
            return _attempt(op, world, network, inputs, mounted, number, line, blob.fd)

        try:
            packed = attempt(_knowing(spec, inputs, diff_ids))
        except StepError as error:
            if not request.on_fail:
                raise
            from pybuild.engine.recovery import FailedRun, recover

            place(error)
            failed = FailedRun(op, spec, network, staging, blob.fd, diff_ids, number)
            packed = recover(error, failed, inputs, partial(_placed, partial(attempt, spec), place))
            by_hand = True
        # The next RUN starts from it at once
        inputs.grounds.keep(ground, diff_ids, packed.diff_id)
    except BaseException:
        blob.abort()
        workers.remove(staging)
        raise
    return Ran(packed, blob, by_hand)


def _knowing(spec: SandboxSpec, inputs: "Inputs", diff_ids: Sequence[Digest]) -> SandboxSpec:
    """Tell the sandbox, if it is of use, what set-gid directories there are; a changed tree may have others."""
    if spec.emulation != "full" or any(map(volumes.keeps_writes, spec.volumes)):
        return spec
    return msgspec.structs.replace(spec, set_gid=inputs.grounds.set_gid(diff_ids))


def _attempt(
    op: RunOp,
    spec: SandboxSpec,
    network: Joined,
    inputs: "Inputs",
    mounted: Mounted,
    number: int,
    line: int,
    tar: int,
) -> Packed:
    """Run the command once."""
    limit = inputs.request.limits.memory
    with inputs.limiter.group() as group:
        with _Output(partial(_tell, inputs, number), mounted.secrets) as output:
            try:
                end, packed = inputs.workers.run(
                    spec,
                    output.stdout,
                    output.stderr,
                    tar,
                    network.namespace,
                    group.entries,
                    inputs.request.step_timeout,
                    output.readers,
                    mounted.locks,
                )
            except TimeoutError:
                raise _too_long(op, inputs.request.step_timeout, output.last) from None
            except SandboxError as error:
                # The kernel may choose the sandbox's own first process
                if not group.out_of_memory():
                    raise
                raise _out_of_memory(op, limit, output.last, 137) from error
        if group.out_of_memory():
            if packed is None:
                raise _out_of_memory(op, limit, output.last, end.status)
            # Only the exit code counts, as with other builders: some commands are made for this
            inputs.emit(Notice("warning", _survived(op, limit), line))
    if packed is None:
        raise _failed(op, end, output.last)
    return packed


def _placed(attempt: Callable[[], Packed], place: Callable[[StepError], None]) -> Packed:
    try:
        return attempt()
    except StepError as error:
        place(error)
        raise


def _tell(inputs: "Inputs", number: int, stream: str, text: str) -> None:
    inputs.emit(StepLog(number, stream, text))


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
    message = f"RUN was killed: memory limit {_size(limit)} reached: {_command(op)}"
    return RunFailedError(message, "`--memory` gives it more", log=tuple(log), status=status)


def _survived(op: RunOp, limit: int) -> str:
    return f"a process was killed, memory limit {_size(limit)} reached, but RUN ended with exit code 0: {_command(op)}"


def _size(limit: int) -> str:
    return f"{limit / (1 << 20):g} MB"


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
    if status == _NOT_EXECUTABLE and end.message.endswith(os.strerror(errno.ENOEXEC)) and _is_foreign(op):
        message = f"RUN needs an emulator of {op.platform}, which this machine ({host()}) does not have: {command}"
        return RunFailedError(message, advice.EMULATOR, log=tuple(log), status=status)
    hints = {127: "the command was not found in the image", 126: "the command cannot be executed in the image"}
    hint = end.message or hints.get(status, "")
    return RunFailedError(f"RUN {how}: {command}", hint, log=tuple(log), status=status)


def _is_foreign(op: RunOp) -> bool:
    return bool(op.platform) and parse_platform(op.platform).architecture != host().architecture


class _Output:
    """Two pipes, read while their writers are waited for: text goes to `tell`, the last lines are kept.

    Neither has a secret in it.
    """

    def __init__(self, tell: Callable[[str, str], None], secrets: Sequence[bytes] = ()) -> None:
        self._tell = tell
        self._secrets = secrets
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._partial = ""

    @property
    def last(self) -> list[str]:
        """Return the last lines that were written."""
        return [*self._lines, *([self._partial] if self._partial else [])][-LOG_LINES:]

    def __enter__(self) -> "_Output":
        self.readers: dict[int, Callable[[], bool]] = {}
        self._redactors = []
        writers = []
        for stream in ("stdout", "stderr"):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            redactor = Redactor(self._secrets, partial(self._show, stream))
            self._redactors.append(redactor)
            self.readers[reader] = partial(self._read, reader, getincrementaldecoder("utf-8")("replace"), redactor)
            writers.append(writer)
        self.stdout, self.stderr = writers
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.stdout)
        os.close(self.stderr)
        # Every writer is gone with the pid namespace: what they wrote is all there
        for reader, read in self.readers.items():
            while read():
                continue
            os.close(reader)
        for redactor in self._redactors:
            redactor.finish()

    def _read(self, fd: int, decoder: IncrementalDecoder, redactor: Redactor) -> bool:
        """Take what is there; return False when nothing more is."""
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return False
        redactor.feed(decoder.decode(data, final=not data))
        return bool(data)

    def _show(self, stream: str, text: str) -> None:
        self._keep(text)
        self._tell(stream, text)

    def _keep(self, text: str) -> None:
        *lines, self._partial = (self._partial + text).split("\n")
        self._lines.extend(line[:LINE_LIMIT] for line in lines)
        self._partial = self._partial[:LINE_LIMIT]
