"""What the first process of a sandbox tells the job that made it: records over a pipe, and what they mean.

Silence is an error, never success.
"""

import os
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from pybuild.errors import PybuildError
from pybuild.sandbox import payload
from pybuild.sandbox.spec import RunEnd, SandboxSpec
from pybuild.sandbox.stubs import Made

# What msgspec has to know of the type it finds out once: here, before anything is forked
_NOTHING_MADE = msgspec.convert({}, Made)

_LAST = {"status", "problem", "bug"}
"""Kinds of records after which init says nothing more."""


def note(*_: object) -> None:
    """Being called at all makes the wake-up pipe readable."""


def watch(
    pid: int, reader: int, wake: int, grace: float, meanwhile: Callable[[], None] | None
) -> tuple[dict[str, Any], bool]:
    """Collect init's records until its last; return them by kind, and whether it was cancelled.

    `meanwhile` is called when the root is made.

    The last one comes when no other process is left in the sandbox, or the deadline of a cancelled one passed.
    """
    data = bytearray()
    records: dict[str, Any] = {}
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(wake, select.POLLIN)
    deadline: float | None = None
    while not records.keys() & _LAST:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        events = dict(poll.poll(left))
        if wake in events:
            os.read(wake, 64)
            if deadline is None:
                deadline = time.monotonic() + grace
                os.kill(pid, signal.SIGTERM)
        if reader in events:
            more = os.read(reader, 65536)
            if not more:
                break
            data += more
            for kind, value in _take_records(data):
                records.setdefault(kind, value)
                if kind == "made" and meanwhile is not None:
                    meanwhile()
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            break
    return records, deadline is not None


def judge(records: dict[str, Any], cancelled: bool) -> tuple[RunEnd, Made]:
    """Return how it ended, as records and the fact that it was cancelled say, and what was made for mounts."""
    if "bug" in records:
        raise RuntimeError(f"the sandbox failed inside:\n{records['bug']}")
    made = msgspec.convert(records["made"], Made) if "made" in records else _NOTHING_MADE
    if cancelled:
        return RunEnd(128 + signal.SIGTERM, cancelled=True), made
    if "problem" in records:
        message, hint = records["problem"]
        return RunEnd(-1, problem=message, hint=hint), made
    if "status" not in records:
        hint = "the machine may be out of memory"
        return RunEnd(-1, problem="the sandbox's first process was killed", hint=hint), made
    code = os.waitstatus_to_exitcode(records["status"])
    return RunEnd(code if code >= 0 else 128 - code, message=records.get("exec", "")), made


def reader_is_gone(writer: int) -> bool:
    """Has nobody the other end of that pipe any more?"""
    poll = select.poll()
    poll.register(writer, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def tell(report: int, kind: str, value: object) -> None:
    """Write one record."""
    data = msgspec.msgpack.encode([kind, value])
    _write_all(report, struct.pack("I", len(data)) + data)


def _write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, whatever a pipe takes at once."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def tell_error(report: int, error: BaseException) -> None:
    """Write the record of what went wrong."""
    if isinstance(error, PybuildError):
        tell(report, "problem", [error.message, error.hint])
    elif isinstance(error, OSError):
        what = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else str(error.strerror)
        tell(report, "problem", [f"cannot make the sandbox: {what}", ""])
    else:
        tell(report, "bug", _trace(error))


def cannot_execute(report: int, err: int, spec: SandboxSpec, error: OSError) -> int:
    """Tell it to who asked and who reads the output; return the exit code."""
    message = f"cannot execute `{spec.argv[0]}`: {error.strerror}"
    tell(report, "exec", message)
    os.write(err, os.fsencode(f"{message}\n"))
    return payload.exit_code(error)


def _trace(error: BaseException) -> str:
    """Return where an error came from. The library's traceback would look for source files in the image."""
    lines = []
    step = error.__traceback__
    while step is not None:
        lines.append(f"  {step.tb_frame.f_code.co_filename}:{step.tb_lineno} in {step.tb_frame.f_code.co_name}")
        step = step.tb_next
    return "\n".join([*lines, f"{type(error).__name__}: {error}"])


def _take_records(data: bytearray) -> Iterator[tuple[str, Any]]:
    """Take the whole records off the front; one cut short by a sudden death counts as never written."""
    while len(data) >= 4:
        (size,) = struct.unpack_from("I", data)
        if len(data) < 4 + size:
            return
        kind, value = msgspec.msgpack.decode(data[4 : 4 + size])
        del data[: 4 + size]
        yield kind, value
