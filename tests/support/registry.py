"""Registries on loopback: one in memory that can be made to fail and to lie, and docker's own program."""

import contextlib
import hashlib
import json
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from support import web
from support.web import Asked

OCI = "application/vnd.oci.image."
MANIFEST, INDEX, CONFIG = OCI + "manifest.v1+json", OCI + "index.v1+json", OCI + "config.v1+json"
LAYER = OCI + "layer.v1.tar"
DOCKER = "application/vnd.docker."
DOCKER_MANIFEST = DOCKER + "distribution.manifest.v2+json"
DOCKER_LIST = DOCKER + "distribution.manifest.list.v2+json"
DOCKER_CONFIG = DOCKER + "container.image.v1+json"
DOCKER_LAYER = DOCKER + "image.rootfs.diff.tar.gzip"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


@dataclass
class Fault:
    """What becomes of an answer: another status, an end after `cut` bytes, bytes changed, more of them, a redirect."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int = -1
    change: Callable[[bytes], bytes] | None = None
    ignore_range: bool = False
    stall: "tuple[Event, Event] | None" = None
    """Before one that is cut ends: the first is set, the second waited for."""


@dataclass
class Contents:
    """What a registry in memory has. `faults` are asked in turn for each request; one that gives a Fault is used once
    unless `lasting` says otherwise.
    """

    documents: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: list[Callable[[Asked], Fault | None]] = field(default_factory=list)
    lasting: list[Callable[[Asked], Fault | None]] = field(default_factory=list)
    challenge: str = ""
    accepted: set[str] = field(default_factory=set)
    tokens: Callable[[Asked, dict[str, list[str]]], tuple[int, Any]] | None = None
    uploads: dict[str, bytearray] = field(default_factory=dict)
    stored: dict[str, set[str]] = field(default_factory=dict)
    """Blobs that were pushed, by repository; those of `blob` are everywhere."""
    referrers: int = 0
    """How many referrers a page of their list has; with 0 the registry knows nothing of them."""

    def referring(self, repository: str, subject: str) -> list[dict[str, Any]]:
        """Return descriptors of the manifests of a repository that refer to another one."""
        found: dict[str, dict[str, Any]] = {}
        for (where, _), (kind, data) in self.documents.items():
            document = json.loads(data)
            if where == repository and document.get("subject", {}).get("digest") == subject:
                more = {"artifactType": document["artifactType"], "annotations": document.get("annotations", {})}
                found[digest(data)] = descriptor(data, kind, **more)
        return [*found.values()]

    def blob(self, data: bytes) -> str:
        self.blobs[digest(data)] = data
        return digest(data)

    def document(self, repository: str, tag: str, media_type: str, value: Any) -> bytes:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        for name in (tag, digest(data)):
            self.documents[repository, name] = media_type, data
        return data

    def image(
        self,
        repository: str,
        tag: str,
        layers: list[tuple[str, bytes, str]],
        *,
        docker: bool = False,
        **config: Any,
    ) -> bytes:
        """Add an image of layers (media type, bytes, diff id) and return its manifest."""
        document = {
            "architecture": "amd64",
            "os": "linux",
            **config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, _, diff_id in layers]},
        }
        data = json.dumps(document).encode()
        self.blob(data)
        for _, layer, _ in layers:
            self.blob(layer)
        media_type = DOCKER_MANIFEST if docker else MANIFEST
        manifest = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor(data, DOCKER_CONFIG if docker else CONFIG),
            "layers": [descriptor(layer, kind) for kind, layer, _ in layers],
        }
        return self.document(repository, tag, media_type, manifest)


class Registry:
    """A registry in memory."""

    def __init__(self, server: web.Web) -> None:
        self.web = server
        self.contents = Contents()
        cast(Any, server).contents = self.contents
        self.address = f"{server.host}:{server.port}"

    def name(self, repository: str) -> str:
        return f"{self.address}/{repository}"

    def asked(self, method: str, part: str = "") -> list[str]:
        """Return the paths that were asked for."""
        return [request.path for request in self.web.asked if request.method == method and part in request.path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Any

    def do_GET(self) -> None:
        asked = Asked(self.command, self.path, self.headers)
        contents: Contents = self.web.contents
        self.web.asked.append(asked)
        path, _, query = self.path.partition("?")
        if asked.method == "PATCH":
            return self._patch(contents, asked)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if path.startswith("http://"):
            path = urlsplit(path).path
        if path == "/token" and contents.tokens is not None:
            status, value = contents.tokens(asked, parse_qs(query or body.decode()))
            return self._send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())
        fault = self._fault(contents, asked)
        if fault.status:
            return self._send(fault.status, fault.headers, fault.body)
        if contents.challenge and asked.headers.get("Authorization") not in contents.accepted:
            error = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
            return self._send(401, {"WWW-Authenticate": contents.challenge}, json.dumps(error).encode())
        if self.command in ("POST", "PUT", "DELETE") or "/uploads/" in path:
            return self._write(contents, path, parse_qs(query), body)
        return self._serve(contents, path, fault)

    do_HEAD = do_GET
    do_POST = do_GET
    do_PUT = do_GET
    do_PATCH = do_GET
    do_DELETE = do_GET

    def _patch(self, contents: Contents, asked: Asked) -> None:
        """Take a part of a blob as it comes; a fault cuts it off, or changes it."""
        fault = self._fault(contents, asked)
        if fault.status:
            self.close_connection = True
            return self._send(fault.status, {"Connection": "close", **fault.headers}, fault.body)
        upload = contents.uploads.get(self.path.rpartition("/")[2])
        if upload is None:
            self.close_connection = True
            return self._send(404, {"Connection": "close"}, b"{}")
        taken = 0
        for block in self._blocks():
            if fault.cut >= 0 and taken + len(block) > fault.cut:
                upload += block[: fault.cut - taken]
                self.close_connection = True
                # The client is still sending: it is to see a connection that is reset
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return None
            upload += fault.change(block) if fault.change is not None else block
            taken += len(block)
        return self._send(202, {"Location": self.path, "Range": f"0-{len(upload) - 1}"}, b"")

    def _blocks(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") != "chunked":
            left = int(self.headers.get("Content-Length") or 0)
            while left and (data := self.rfile.read(min(left, 1 << 16))):
                left -= len(data)
                yield data
            return
        while size := int(self.rfile.readline().strip() or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _write(self, contents: Contents, path: str, query: dict[str, list[str]], body: bytes) -> None:
        """Uploads and manifests, as the distribution specification has them."""
        repository = path.removeprefix("/v2/").partition("/blobs/")[0].partition("/manifests/")[0]
        name = path.rpartition("/")[2]
        if "/manifests/" in path:
            contents.document(repository, name, self.headers["Content-Type"], body)
            headers = {"Docker-Content-Digest": digest(body)}
            subject = json.loads(body).get("subject")
            if contents.referrers and subject:
                headers["OCI-Subject"] = subject["digest"]
            return self._send(201, headers, b"")
        stored = contents.stored.setdefault(repository, set())
        if self.command == "POST":
            wanted, others = query.get("mount", [""])[0], query.get("from", [""])[0]
            if wanted and wanted in contents.stored.get(others, ()):
                stored.add(wanted)
                return self._send(201, {}, b"")
            number = f"u{len(contents.uploads)}"
            contents.uploads[number] = bytearray()
            return self._send(202, {"Location": f"/v2/{repository}/blobs/uploads/{number}"}, b"")
        upload = contents.uploads.get(name)
        if upload is None:
            return self._send(404, {}, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown"}]}')
        if self.command == "GET":
            return self._send(204, {"Location": path, "Range": f"0-{max(0, len(upload) - 1)}"}, b"")
        del contents.uploads[name]
        # A number is not given out twice
        contents.uploads[f"{name}-ended"] = bytearray()
        if self.command == "DELETE":
            return self._send(204, {}, b"")
        data = bytes(upload) + body
        if digest(data) != query["digest"][0]:
            return self._send(400, {}, b'{"errors":[{"code":"DIGEST_INVALID","message":"digest did not match"}]}')
        contents.blob(data)
        stored.add(digest(data))
        return self._send(201, {"Docker-Content-Digest": digest(data)}, b"")

    def _fault(self, contents: Contents, asked: Asked) -> Fault:
        for find in contents.lasting:
            found = find(asked)
            if found is not None:
                return found
        for find in contents.faults:
            found = find(asked)
            if found is not None:
                contents.faults.remove(find)
                return found
        return Fault()

    def _serve(self, contents: Contents, path: str, fault: Fault) -> None:
        listed = re.fullmatch(r"/v2/(.+)/referrers/([^/]+)", path)
        if listed is not None and contents.referrers:
            return self._list(contents, *listed.groups())
        tagged = re.fullmatch(r"/v2/(.+)/tags/list", path)
        if tagged is not None:
            return self._tags(contents, tagged[1])
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", path)
        if match is None:
            return self._send(200 if path == "/v2/" else 404, {}, b"{}")
        repository, kind, name = match.groups()
        headers = {"Docker-Content-Digest": name}
        if kind == "manifests":
            known = contents.documents.get((repository, name))
            if known is not None:
                headers = {"Docker-Content-Digest": digest(known[1]), "Content-Type": known[0]}
            data = known[1] if known is not None else None
        else:
            pushed = {one for found in contents.stored.values() for one in found}
            here = name not in pushed or name in contents.stored.get(repository, ())
            data = contents.blobs.get(name) if here else None
        if data is None:
            error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": f"{kind} unknown", "detail": name}]}
            return self._send(404, {}, json.dumps(error).encode())
        if fault.change is not None:
            data = fault.change(data)
        start = 0
        asked_range = self.headers.get("Range")
        if asked_range and not fault.ignore_range:
            start = int(asked_range.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self._send(206 if start else 200, headers, data[start:], fault.cut, fault.stall)

    def _list(self, contents: Contents, repository: str, subject: str) -> None:
        """Send a page of referrers, unfiltered as the specification allows, with a link to the next."""
        start = int(parse_qs(urlsplit(self.path).query).get("start", ["0"])[0])
        rows = contents.referring(repository, subject)
        headers = {"Content-Type": INDEX}
        if start + contents.referrers < len(rows):
            more = f"/v2/{repository}/referrers/{subject}?start={start + contents.referrers}"
            headers["Link"] = f'<{more}>; rel="next"'
        page = {"schemaVersion": 2, "mediaType": INDEX, "manifests": rows[start : start + contents.referrers]}
        return self._send(200, headers, json.dumps(page).encode())

    def _tags(self, contents: Contents, repository: str) -> None:
        """Send one tag a page."""
        tags = sorted(tag for name, tag in contents.documents if name == repository and ":" not in tag)
        last = parse_qs(urlsplit(self.path).query).get("last", [""])[0]
        left = [tag for tag in tags if tag > last]
        headers = {"Content-Type": "application/json"}
        if not tags:
            return self._send(404, headers, b'{"errors": [{"code": "NAME_UNKNOWN"}]}')
        if left[1:]:
            headers["Link"] = f'</v2/{repository}/tags/list?n=1&last={left[0]}>; rel="next"'
        return self._send(200, headers, json.dumps({"name": repository, "tags": left[:1]}).encode())

    def _send(
        self,
        status: int,
        headers: dict[str, str],
        body: bytes,
        cut: int = -1,
        stall: "tuple[Event, Event] | None" = None,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut < 0 else body[:cut])
        if stall is not None and 0 <= cut < len(body):
            reached, gate = stall
            self.wfile.flush()
            reached.set()
            gate.wait(60)
        if 0 <= cut < len(body):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def fake(certificate: Path | None = None) -> Iterator[Registry]:
    """Give a registry in memory."""
    with web.serve(certificate, _Handler) as server:
        yield Registry(server)


class Program:
    """Docker's registry: `address` to reach it, `root` where it keeps things."""

    def __init__(self, address: str, root: Path) -> None:
        self.address, self.root = address, root

    def name(self, repository: str) -> str:
        return f"{self.address}/{repository}"


@contextmanager
def program(
    directory: Path, *, auth: str = "", tls: tuple[Path, Path] | None = None, client_ca: Path | None = None
) -> Iterator[Program]:
    """Give docker's registry; `auth` is its configuration of that as YAML, `tls` certificate and key.

    With `client_ca` clients are to show a certificate that it has signed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yml"
    wanted = f", clientcas: [{client_ca}]" if client_ca else ""
    secure = f"\n  tls: {{certificate: {tls[0]}, key: {tls[1]}{wanted}}}" if tls else ""
    config.write_text(
        "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\n"
        f"storage:\n  filesystem: {{rootdirectory: {directory / 'data'}}}\n  delete: {{enabled: true}}\n"
        f"http:\n  addr: 127.0.0.1:0\n  secret: tests{secure}\n{auth}"
    )
    command = [shutil.which("docker-registry") or "docker-registry", "serve", str(config)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told: list[str] = []
        try:
            for line in process.stderr:
                told.append(line)
                found = re.search(r"listening on (127\.0\.0\.1:\d+)", line)
                if found:
                    break
            else:
                raise AssertionError("".join(told))
            # What it says further goes into its pipe, which nobody reads: little at this level
            yield Program(found[1], directory / "data")
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
