"""The daemon, over its unix socket."""

import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pybuild import __version__
from pybuild.api.events import Event, from_json, is_last
from pybuild.api.request import BuildRequest, ManifestRequest, PullRequest, PushRequest, ShellRequest
from pybuild.client.errors import DaemonBusyError, DaemonError, DaemonGoneError
from pybuild.client.start import Place, connect_or_start, place, try_connect, wait_for_end
from pybuild.client.wire import Connection, Response
from pybuild.errors import ConflictError

Filters = dict[str, list[str]]

JSON = {"Content-Type": "application/json"}
BUILD = {"Content-Type": "application/vnd.pybuild.build", "Accept": "application/vnd.pybuild.events+jsonl"}
TAR = {"Content-Type": "application/x-tar"}


class Remote:
    """A Backend over a connection to a daemon."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @staticmethod
    def connect(where: Place | None = None) -> "Remote":
        """Return a connection to a daemon of our version and store, starting or replacing one as needed."""
        from pybuild.engine.paths import store_root

        where = where or place()
        store = str(store_root())
        for _ in range(3):
            connection = connect_or_start(where)
            try:
                status = _status(connection)
            except DaemonGoneError:
                # It was just about to end
                connection.close()
                wait_for_end(where, 5)
                continue
            except BaseException:
                connection.close()
                raise
            if status.get("version") == __version__ and status.get("store") == store:
                return Remote(connection)
            _replace(connection, where, status)
        raise DaemonError("daemons of several versions or stores replace each other", "try again, or use `--inline`")

    @staticmethod
    def running(where: Place | None = None) -> "Remote | None":
        """Return a connection to the daemon that runs, of whatever version; None when there is none."""
        connection = try_connect(where or place())
        return None if connection is None else Remote(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def status(self) -> dict[str, Any]:
        """Return what the daemon tells of itself."""
        return _status(self._connection)

    def stop(self, *, if_idle: bool = False, now: bool = False) -> None:
        """Ask the daemon to stop; raise ConflictError when it must be idle and is not. `now` cancels its builds."""
        query = _query({"if_idle": int(if_idle), "now": int(now)})
        self._connection.request("POST", f"/pybuild/v1/stop?{query}").read()

    def build(self, request: BuildRequest, context: BinaryIO | None = None) -> Generator[Event, None, None]:
        """Yield the events the daemon sends; an end without Built, Checked or Failed raises DaemonGoneError."""
        # The first line of the body is the request, the rest is the context
        body = json.dumps(request.to_json(), separators=(",", ":")).encode() + b"\n"
        yield from self._events(self._connection.request("POST", "/build", headers=BUILD, body=body, stream=context))

    def shell(self, request: ShellRequest) -> Generator[Event, None, None]:
        """Yield the events the daemon sends, as in a build."""
        body = json.dumps(request.to_json(), separators=(",", ":")).encode()
        yield from self._events(self._connection.request("POST", "/pybuild/v1/shell", headers=JSON, body=body))

    def pull(self, request: PullRequest) -> Generator[Event, None, None]:
        """Yield the events the daemon sends, as in a build."""
        body = json.dumps(request.to_json(), separators=(",", ":")).encode()
        yield from self._events(self._connection.request("POST", "/pybuild/v1/pull", headers=JSON, body=body))

    def push(self, request: PushRequest) -> Generator[Event, None, None]:
        """Yield the events the daemon sends, as in a build."""
        body = json.dumps(request.to_json(), separators=(",", ":")).encode()
        yield from self._events(self._connection.request("POST", "/pybuild/v1/push", headers=JSON, body=body))

    def manifests(self, request: ManifestRequest) -> Generator[Event, None, None]:
        """Yield the events the daemon sends, as in a build."""
        body = json.dumps(request.to_json(), separators=(",", ":")).encode()
        yield from self._events(self._connection.request("POST", "/pybuild/v1/manifests", headers=JSON, body=body))

    def attach(self, token: str) -> list[int]:
        from pybuild.client.descriptors import fetch

        assert self._connection.path is not None
        return fetch(self._connection.path, f"/pybuild/v1/attach?{_query({'token': token})}")

    def decide(self, token: str, decision: str) -> None:
        # The connection of the build is still telling its events
        with closing(self._another()) as another:
            query = _query({"token": token, "decision": decision})
            another.request("POST", f"/pybuild/v1/decide?{query}").read()

    def _another(self) -> Connection:
        """Return one more connection to the same daemon."""
        assert self._connection.path is not None
        return Connection(self._connection.path)

    def _events(self, response: Response) -> Generator[Event, None, None]:
        ended = False
        try:
            for line in response.lines():
                try:
                    event = from_json(json.loads(line))
                except ValueError as error:
                    raise DaemonError(f"cannot understand the daemon: {error}") from error
                ended = is_last(event)
                yield event
        finally:
            if not ended:
                # This is how a build is cancelled
                self._connection.close()
        if not ended:
            raise DaemonGoneError("the daemon ended during the build", "`pybuild daemon logs` may tell why")

    def images(self, *, all: bool = False, filters: Filters | None = None) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._get(
            "/images/json", {"all": int(all), "filters": json.dumps(filters or {})}
        )
        return result

    def inspect(self, name: str, platform: str = "") -> dict[str, Any]:
        query = {"platform": platform} if platform else None
        result: dict[str, Any] = self._get(f"/images/{_in_path(name)}/json", query)
        return result

    def history(self, name: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._get(f"/images/{_in_path(name)}/history")
        return result

    def inputs(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = self._get("/pybuild/v1/inputs", {"name": name})
        return result

    def compare(self, name: str, other: str) -> dict[str, Any]:
        result: dict[str, Any] = self._get("/pybuild/v1/compare", {"name": name, "other": other})
        return result

    def layers(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = self._get("/pybuild/v1/layers", {"name": name})
        return result

    def files(self, name: str, paths: Sequence[str], out: BinaryIO) -> None:
        body = json.dumps({"paths": list(paths)}).encode()
        self._connection.request(
            "POST", f"/pybuild/v1/files?{_query({'name': name})}", headers=JSON, body=body
        ).copy_to(out)

    def tag(self, name: str, new_name: str) -> None:
        query = _query({"repo": new_name})
        self._connection.request("POST", f"/images/{_in_path(name)}/tag?{query}").read()

    def remove(self, name: str, *, force: bool = False) -> list[dict[str, str]]:
        response = self._connection.request("DELETE", f"/images/{_in_path(name)}?force={int(force)}")
        result: list[dict[str, str]] = _checked(response)
        return result

    def save(
        self,
        names: Sequence[str],
        out: BinaryIO,
        *,
        format: str = "docker",
        compression: str = "none",
        platform: str = "",
    ) -> None:
        values = {"names": list(names), "format": format, "compression": compression}
        query = _query({**values, "platform": platform} if platform else values)
        self._connection.request("GET", f"/images/get?{query}").copy_to(out)

    def load(self, source: BinaryIO | Path) -> list[dict[str, str]]:
        if isinstance(source, Path):
            body = json.dumps({"path": os.fsdecode(source)}).encode()
            response = self._connection.request("POST", "/pybuild/v1/load", headers=JSON, body=body)
        else:
            response = self._connection.request("POST", "/pybuild/v1/load", headers=TAR, stream=source)
        result: list[dict[str, str]] = _checked(response)
        return result

    def import_(self, source: BinaryIO, name: str, *, changes: Sequence[str] = (), message: str = "") -> str:
        query = _query({"name": name, "changes": list(changes), "message": message})
        response = self._connection.request("POST", f"/pybuild/v1/import?{query}", headers=TAR, stream=source)
        return str(_checked(response)["id"])

    def export(self, name: str, type: str, out: BinaryIO, attrs: dict[str, str]) -> None:
        query = _query({"name": name, "type": type, "attrs": json.dumps(attrs)})
        self._connection.request("GET", f"/pybuild/v1/export?{query}").copy_to(out)

    def prune(self, *, all: bool = False, filters: Filters | None = None, dry_run: bool = False) -> dict[str, Any]:
        query = _query({"all": int(all), "dry_run": int(dry_run), "filters": json.dumps(filters or {})})
        result: dict[str, Any] = _checked(self._connection.request("POST", f"/pybuild/v1/prune?{query}"))
        return result

    def builds(self) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._get("/pybuild/v1/builds")
        return result

    def explain(self, build: str = "") -> dict[str, Any]:
        result: dict[str, Any] = self._get("/pybuild/v1/explain", {"build": build})
        return result

    def df(self) -> dict[str, Any]:
        result: dict[str, Any] = self._get("/pybuild/v1/df")
        return result

    def _get(self, path: str, query: Mapping[str, object] | None = None) -> Any:
        return _checked(self._connection.request("GET", f"{path}?{_query(query)}" if query else path))


def _in_path(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="/:@")


def _status(connection: Connection) -> dict[str, Any]:
    result: dict[str, Any] = _checked(connection.request("GET", "/pybuild/v1/status"))
    return result


def _checked(response: Response) -> Any:
    body = response.json()
    if body is None:
        raise DaemonError("cannot understand the daemon: its answer is no JSON")
    return body


def _replace(connection: Connection, where: Place, status: Mapping[str, Any]) -> None:
    """End an idle daemon that is not the one we need."""
    try:
        with Remote(connection) as remote:
            remote.stop(if_idle=True)
    except ConflictError as error:
        if status.get("version") != __version__:
            what = f"the running daemon is pybuild {status.get('version')}, this is {__version__}"
        else:
            what = f"the running daemon uses another store: {status.get('store')}"
        raise DaemonBusyError(
            f"{what}, and it is busy", "wait for its builds, or run `pybuild daemon stop`, or use `--inline`"
        ) from error
    if not wait_for_end(where, 10):
        raise DaemonError("the old daemon does not stop", "run `pybuild daemon stop`")


def _query(values: Mapping[str, Any]) -> str:
    # Only here: a build asks for nothing in its address
    from urllib.parse import urlencode

    return urlencode(values, doseq=True)
