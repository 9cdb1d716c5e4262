"""The daemon's log: lines on standard error, which is the log file when it runs in the background."""

import logging
import os
from pathlib import Path

MAX_SIZE = 1 << 20
"""The log is moved to `daemon.log.1` when it is larger than this many bytes; one old one is kept."""


class LogHandler(logging.Handler):
    """Writes to descriptor 2, so that a traceback of the interpreter's own lands in the same file."""

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._path is not None and os.fstat(2).st_size > MAX_SIZE:
                self._rotate(self._path)
            os.write(2, self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except OSError:
            # A full disk must not end the daemon, and there is no other place to tell it
            pass

    def _rotate(self, path: Path) -> None:
        os.replace(path, path.with_name(path.name + ".1"))
        fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.dup2(fresh, 1)
        os.dup2(fresh, 2)
        os.close(fresh)


def set_up(path: Path | None, *, debug: bool = False) -> None:
    """Send the log of this process to standard error; `path` is the file it is, to be rotated."""
    logger = logging.getLogger("pybuild")
    logger.addHandler(LogHandler(path))
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
    # aiohttp tells here of requests that are no HTTP, and asyncio of its own bugs
    for name in ("aiohttp.server", "asyncio"):
        logging.getLogger(name).addHandler(LogHandler(path))
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).propagate = False
