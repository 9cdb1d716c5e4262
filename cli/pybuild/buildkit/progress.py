"""A build's events as BuildKit's status: vertexes that begin and end, their output, counts and warnings. Pure.

All that was told is kept until the build is forgotten: who asks later, or a second time, gets all of it.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from pybuild.api.events import Event, Failed, Notice, Planned, StepDone, StepLog, StepStarted, Transfer
from pybuild.buildkit import messages
from pybuild.buildkit.failures import told

MAX_LOG = 2 << 20
"""How much of a step's output is told, in bytes, as BuildKit has it."""

_CLIPPED = b"[output clipped, log limit 2MiB reached]\n"
_STREAMS = {"stdout": 1, "stderr": 2}


def stamp(seconds: float) -> dict[str, int]:
    """Return a time, seconds since the epoch, as a Timestamp."""
    whole = int(seconds)
    return {"seconds": whole, "nanos": int((seconds - whole) * 1_000_000_000)}


class Progress:
    """Turns the events of one build into status messages, given to `tell` one by one.

    `now` gives the time in seconds since the epoch.
    """

    def __init__(self, ref: str, tell: Callable[[bytes], None], now: Callable[[], float]) -> None:
        self._ref = ref
        self._tell = tell
        self._now = now
        self._labels: tuple[str, ...] = ()
        self._open: dict[str, dict[str, Any]] = {}
        self._logged: dict[str, int] = {}
        self._transfers: dict[tuple[str, str], dict[str, int]] = {}
        self.file, self.text = "", b""

    # -- vertexes of our own

    def begin(self, name: str) -> str:
        """Begin something that is no step; return its digest."""
        return self._begin(self._digest(name), name, self._now())

    def end(self, digest: str, *, error: str = "", cached: bool = False) -> None:
        """End what was begun."""
        self._end(digest, self._now(), error=error, cached=cached)

    def count(self, digest: str, label: str, current: int, done: bool) -> None:
        """Tell a count of bytes, how many nobody knows before it is done, of something that was begun."""
        self._count(digest, label, current, 0, done)

    def give_up(self, error: str) -> None:
        """End with an error what is still open: the client would go on showing it."""
        for digest in [*self._open]:
            self.end(digest, error=error)

    # -- events

    def event(self, event: Event) -> None:
        """Tell an event."""
        match event:
            case Planned():
                self._labels = tuple(_label(step.label) for step in event.steps)
            case StepStarted():
                self._begin(self._digest(event.step), self._name(event.step), event.time)
            case StepLog():
                self._log(self._digest(event.step), event.stream, event.text.encode("utf-8", "replace"))
            case Transfer():
                self._transfer(event)
            case StepDone():
                self._end(self._digest(event.step), event.time, cached=event.cached)
            case Notice(level="warning"):
                self._warn(event)
            case Failed():
                digest = self._digest(event.step)
                if digest in self._open:
                    self._end(digest, event.time, error=told(event.failure))
            case _:
                return

    def _name(self, step: int) -> str:
        return self._labels[step] if 0 <= step < len(self._labels) else "step"

    def _digest(self, what: int | str) -> str:
        return "sha256:" + hashlib.sha256(f"{self._ref} {what}".encode("utf-8", "replace")).hexdigest()

    def _begin(self, digest: str, name: str, time: float) -> str:
        self._open[digest] = {"digest": digest, "name": name, "started": stamp(time)}
        self._send({"vertexes": [self._open[digest]]})
        return digest

    def _end(self, digest: str, time: float, *, error: str = "", cached: bool = False) -> None:
        vertex = self._open.pop(digest, None)
        if vertex is not None:
            self._send({"vertexes": [{**vertex, "completed": stamp(time), "cached": cached, "error": error}]})

    def _log(self, digest: str, stream: str, text: bytes) -> None:
        logged = self._logged.get(digest, 0)
        if logged > MAX_LOG:
            return
        self._logged[digest] = logged + len(text)
        if logged + len(text) > MAX_LOG:
            text = text[: MAX_LOG - logged] + b"\n" + _CLIPPED
        log = {"vertex": digest, "timestamp": stamp(self._now()), "stream": _STREAMS.get(stream, 1), "msg": text}
        self._send({"logs": [log]})

    def _transfer(self, event: Transfer) -> None:
        if event.step >= 0:
            done = 0 < event.total <= event.current
            self._count(self._digest(event.step), event.label, event.current, event.total, done)
            return
        digest = self._digest(event.label)
        if digest not in self._open and event.current != event.total:
            self._begin(digest, event.label, self._now())
        self._count(digest, event.label, event.current, event.total, event.current == event.total)
        if event.total and event.current == event.total:
            self._end(digest, self._now())

    def _count(self, digest: str, label: str, current: int, total: int, done: bool) -> None:
        now = stamp(self._now())
        started = self._transfers.setdefault((digest, label), now)
        status: dict[str, Any] = {
            "ID": label,
            "vertex": digest,
            "current": current,
            "total": total,
            "timestamp": now,
            "started": started,
        }
        if done:
            status["completed"] = now
        self._send({"statuses": [status]})

    def _warn(self, notice: Notice) -> None:
        digest = self._digest("warnings")
        warning: dict[str, Any] = {"vertex": digest, "level": 1}
        if notice.rule:
            place = f" (line {notice.line})" if notice.line else ""
            warning["short"] = f"{notice.rule}: {notice.message}{place}".encode("utf-8", "replace")
        else:
            warning["short"] = notice.message.encode("utf-8", "replace")
        if notice.line and self.text:
            warning["info"] = {"filename": self.file, "data": self.text, "language": "Dockerfile"}
            warning["ranges"] = [{"start": {"line": notice.line}, "end": {"line": notice.line}}]
        self._send({"warnings": [warning]})

    def _send(self, values: Mapping[str, Any]) -> None:
        self._tell(messages.PROGRESS.encode(values))


def _label(label: str) -> str:
    """Return the name of a step in one line; BuildKit's have no line breaks either."""
    return re.sub(r"\s*\\?\n\s*", " ", label)
