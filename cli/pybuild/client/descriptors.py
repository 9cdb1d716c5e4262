"""A request of its own connection that is answered with descriptors; see `daemon/shells.py`."""

import json
import os
from pathlib import Path

from pybuild.client.errors import DaemonError, DaemonGoneError, error_from
from pybuild.client.links import connect
from pybuild.sandbox.wire import receive_with_fds

_MAX_ANSWER = 1 << 20


def fetch(path: Path, target: str) -> list[int]:
    """POST to the daemon at the socket `path` and return the descriptors it sends; raise what it tells otherwise."""
    head = f"POST {target} HTTP/1.1\r\nHost: pybuild\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    answer = b""
    found: list[int] = []
    try:
        with connect(path) as connection:
            connection.sendall(head.encode("ascii"))
            # Every byte is received here: what another reader took would have lost its descriptors
            while len(answer) < _MAX_ANSWER:
                data, fds = receive_with_fds(connection, 65536)
                found += fds
                answer += data
                if not data:
                    break
        start, _, body = answer.partition(b"\r\n\r\n")
        status = start.split(b" ")[1:2]
        if status == [b"200"] and found:
            fds, found = found, []
            return fds
    except OSError as error:
        raise DaemonError(f"cannot reach the daemon: {path}: {error.strerror}") from error
    finally:
        for fd in found:
            os.close(fd)
    if not status or not status[0].isdigit() or status == [b"200"]:
        raise DaemonGoneError("the daemon did not hand over the shell", "`pybuild daemon logs` may tell why")
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    raise error_from(int(status[0]), told)
