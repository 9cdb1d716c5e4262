"""A registry in memory, on loopback (OCI distribution 1.1): images, artifacts that refer to them, and uploads."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

INDEX = "application/vnd.oci.image.index.v1+json"


class Registry:
    """What a registry has.

    `address` is host and port. `manifests` are media type and bytes by repository and what they are called there, tag
    or digest; `blobs` are bytes by digest.
    """

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}

    def name(self, image: str) -> str:
        """Return what an image such as `team/app:1` is called here."""
        return f"{self.address}/{image}"

    def tags(self, repository: str) -> list[str]:
        """Return the tags of a repository, sorted."""
        return sorted(name for where, name in self.manifests if where == repository and ":" not in name)

    def put(self, repository: str, name: str, media_type: str, data: bytes) -> str:
        """Keep a manifest under a name and its digest, which is returned."""
        digest = _digest(data)
        self.manifests[repository, name] = self.manifests[repository, digest] = media_type, data
        return digest

    def referrers(self, repository: str, subject: str) -> list[dict[str, Any]]:
        """Return descriptors of the manifests that refer to another one, by its digest."""
        found = []
        for (where, name), (media_type, data) in sorted(self.manifests.items()):
            about = json.loads(data)
            if where == repository and ":" in name and about.get("subject", {}).get("digest") == subject:
                kind = about.get("artifactType") or about.get("config", {}).get("mediaType", "")
                row = {"mediaType": media_type, "digest": name, "size": len(data), "artifactType": kind}
                found.append({**row, "annotations": about.get("annotations") or {}})
        return found


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    found: Registry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        here, (path, _, query) = self.server.found, self.path.partition("?")
        body = self._body()
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags|referrers)/(.*)", path)
        if match is None:
            return self._send(200 if path == "/v2/" else 404, b"{}")
        repository, kind, name = match.groups()
        if kind == "blobs" and name.startswith("uploads/"):
            return self._upload(here, repository, parse_qs(query), body)
        if kind == "manifests" and self.command == "PUT":
            return self._put(here, repository, name, body)
        return self._serve(here, repository, kind, name)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET

    def _serve(self, here: Registry, repository: str, kind: str, name: str) -> None:
        if kind == "tags":
            found = {"name": repository, "tags": here.tags(repository)}
            return self._send(200, json.dumps(found).encode())
        if kind == "referrers":
            rows = {"schemaVersion": 2, "mediaType": INDEX, "manifests": here.referrers(repository, name)}
            return self._send(200, json.dumps(rows).encode(), {"Content-Type": INDEX})
        if kind == "manifests" and (repository, name) in here.manifests:
            media_type, data = here.manifests[repository, name]
            return self._send(200, data, {"Content-Type": media_type, "Docker-Content-Digest": _digest(data)})
        if kind == "blobs" and name in here.blobs:
            headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": name}
            return self._send(200, here.blobs[name], headers)
        code = "MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN"
        return self._send(404, json.dumps({"errors": [{"code": code, "message": f"not known: {name}"}]}).encode())

    def _put(self, here: Registry, repository: str, name: str, body: bytes) -> None:
        digest = here.put(repository, name, self.headers.get("Content-Type", ""), body)
        headers = {"Docker-Content-Digest": digest, "Location": f"/v2/{repository}/manifests/{digest}"}
        subject = json.loads(body).get("subject")
        if subject:
            headers["OCI-Subject"] = subject["digest"]
        return self._send(201, b"", headers)

    def _upload(self, here: Registry, repository: str, query: dict[str, list[str]], body: bytes) -> None:
        """Take a blob in one piece or in several; what has come so far is kept under its place."""
        place = self.path.partition("?")[0]
        if self.command == "POST" and "digest" not in query:
            mounted = query.get("mount", [""])[0]
            if mounted in here.blobs:
                return self._send(201, b"", {"Location": f"/v2/{repository}/blobs/{mounted}"})
            place = f"/v2/{repository}/blobs/uploads/{len(here.blobs)}-{id(self.connection)}"
            here.blobs[place] = b""
            return self._send(202, b"", {"Location": place})
        data = here.blobs.get(place, b"") + body
        if self.command == "PATCH":
            here.blobs[place] = data
            return self._send(202, b"", {"Location": place, "Range": f"0-{len(data) - 1}"})
        here.blobs.pop(place, None)
        digest = query["digest"][0]
        if _digest(data) != digest:
            return self._send(400, b'{"errors": [{"code": "DIGEST_INVALID", "message": "not what was said"}]}')
        here.blobs[digest] = data
        return self._send(201, b"", {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a test looks at what the registry has."""


@contextmanager
def registry() -> Iterator[Registry]:
    """Listen on loopback."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.found = Registry(server.server_port)
        thread = Thread(target=server.serve_forever, args=(0.01,), name="registry")
        thread.start()
        try:
            yield server.found
        finally:
            server.shutdown()
            thread.join()
