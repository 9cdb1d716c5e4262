"""The time a whole build may take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Flag
from threading import Lock, Timer

from pybuild.dockerfile.durations import NANOSECONDS
from pybuild.engine.errors import BuildTimeoutError


class Deadline:
    """Sets `cancel` when the time of `seconds` (0: as long as it takes) is over. Use it with `with`."""

    def __init__(self, seconds: float, cancel: Flag) -> None:
        self.seconds = seconds
        self._left = seconds
        self._cancel = cancel
        self._passed = Flag()
        self._lock = Lock()
        self._holds = 0
        self._begun = 0.0
        self._timer: Timer | None = None

    def __enter__(self) -> "Deadline":
        self._go_on()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no time pass meanwhile: somebody is being waited for."""
        with self._lock:
            self._holds += 1
            if self._holds == 1 and self._timer is not None:
                self._timer.cancel()
                self._left -= time.monotonic() - self._begun
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1
                if self._holds == 0:
                    self._go_on()

    def _go_on(self) -> None:
        if self.seconds > 0:
            self._begun = time.monotonic()
            self._timer = Timer(max(0.0, self._left), self._pass)
            self._timer.daemon = True
            self._timer.start()

    def _pass(self) -> None:
        self._passed.set()
        self._cancel.set()

    @property
    def passed(self) -> bool:
        """Is the time over?"""
        return self._passed.is_set()

    def error(self) -> BuildTimeoutError:
        """Return the error for a build that took too long."""
        return BuildTimeoutError(
            f"the build did not end within {duration(self.seconds)}", "`--timeout` gives it more time"
        )


def duration(seconds: float) -> str:
    """Return seconds as people write them: 1h30m, 2.5s."""
    left = round(seconds * 1e9)
    parts: list[str] = []
    for unit in ("h", "m"):
        count, left = divmod(left, NANOSECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    if left or not parts:
        parts.append(f"{left / NANOSECONDS['s']:g}s")
    return "".join(parts)
