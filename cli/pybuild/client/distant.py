"""A daemon that sees none of our files: that of another machine, or one behind a socket of whoever it is."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

from pybuild import __version__
from pybuild.api.events import Built, Event
from pybuild.api.request import BuildRequest, ManifestRequest, Output, PullRequest, PushRequest, ShellRequest
from pybuild.client.errors import DaemonError, RemoteError
from pybuild.client.hosts import Host
from pybuild.client.links import dial
from pybuild.client.remote import BUILD, Remote
from pybuild.client.shipping import ship, with_logins
from pybuild.client.wire import Connection
from pybuild.errors import NotFoundError, PybuildError, UsageError


class Distant(Remote):
    """A Backend over a connection to the daemon of a host."""

    def __init__(self, host: Host) -> None:
        """Connect; raise DaemonError when that cannot be, or its version is not ours."""
        self._host = host
        super().__init__(self._another())
        try:
            self._check(self._told())
        except BaseException:
            self._connection.close()
            raise

    def _told(self) -> dict[str, Any]:
        try:
            return self.status()
        except (NotFoundError, RemoteError) as error:
            raise DaemonError(
                f"what answers is not pybuild's daemon: {self._host.url}: {error.message}", error.hint
            ) from error

    def _check(self, status: dict[str, Any]) -> None:
        version = status.get("version")
        if version != __version__:
            raise DaemonError(
                f"{self._host.name} has pybuild {version}, this is {__version__}", "have the same version on both"
            )

    def _another(self) -> Connection:
        return Connection(dial(self._host), self._host.url.partition("://")[2] if self._host.machine else "pybuild")

    def build(self, request: BuildRequest, context: BinaryIO | None = None) -> Generator[Event, None, None]:
        """Yield the events the daemon sends, after the context was packed and sent; what is to be written here is
        fetched before the last one. Raises what packing raises.
        """
        sent, write, outputs = ship(request, self._host.name)
        body = json.dumps(sent.to_json(), separators=(",", ":")).encode() + b"\n"
        response = self._connection.request("POST", "/build", headers=BUILD, body=body, stream=context, write=write)
        built: Built | None = None
        for event in self._events(response):
            if isinstance(event, Built):
                built = event
            else:
                yield event
        if built is not None:
            written = tuple(self._written(output, built) for output in outputs if output.dest != "-")
            yield built._replace(exported=(*built.exported, *written))

    def _written(self, output: Output, built: Built) -> str:
        from pybuild.engine.exporting import directory_of_tar, whole_file

        epoch = {} if built.source_date_epoch is None else {"source-date-epoch": str(built.source_date_epoch)}
        attrs = {**(epoch if output.type in ("tar", "local") else {}), **output.attrs}
        if output.type == "local":
            with directory_of_tar(Path(output.dest)) as file:
                self.export(built.image_id, "tar", file, attrs)
        else:
            with whole_file(Path(output.dest)) as file:
                self.export(built.image_id, output.type, file, attrs)
        return output.dest

    def pull(self, request: PullRequest) -> Generator[Event, None, None]:
        registries = with_logins(request.registries, json.dumps(request.names))
        yield from super().pull(request._replace(proxies={}, registries=registries))

    def push(self, request: PushRequest) -> Generator[Event, None, None]:
        registries = with_logins(request.registries, json.dumps([*request.names, request.destination]))
        yield from super().push(request._replace(proxies={}, registries=registries))

    def manifests(self, request: ManifestRequest) -> Generator[Event, None, None]:
        registries = with_logins(request.registries, json.dumps([request.name, *request.images]))
        yield from super().manifests(request._replace(proxies={}, registries=registries))

    def shell(self, request: ShellRequest) -> Generator[Event, None, None]:
        raise UsageError(f"no shell can be had from another machine: {self._host.name}", "run `pybuild shell` there")
        yield

    def attach(self, token: str) -> list[int]:
        raise PybuildError(f"no shell can be had from another machine: {self._host.name}")

    def load(self, source: BinaryIO | Path) -> list[dict[str, str]]:
        if isinstance(source, Path):
            raise UsageError(
                f"a directory is not sent to another machine: {source}", f"`tar -C {source} -c . | pybuild load` does"
            )
        return super().load(source)
