"""Git repositories of a test, and git's own server for them over HTTP on loopback."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import web as servers
from support.web import Answer, Asked, Web

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    **{
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "T"), ("EMAIL", "t@t"))
    },
    "GIT_AUTHOR_DATE": "2026-09-01T10:00:00Z",
    "GIT_COMMITTER_DATE": "2026-09-01T10:00:00Z",
}
COMMITTED = 1788256800


class Repository:
    """A repository with a working tree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        # What servers on the network allow
        self.git("config", "uploadpack.allowAnySHA1InWant", "true")

    def git(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *arguments],
            cwd=self.path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout.strip()

    def commit(self, **files: str) -> str:
        """Write files (`__` is a slash in their names) and return the commit."""
        for name, text in files.items():
            place = self.path / name.replace("__", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "change")
        return self.git("rev-parse", "HEAD")


class _Handler(servers.Handler):
    """Runs `git http-backend` as a CGI program, after what `web.answers` says."""

    root: Path

    def do_GET(self) -> None:
        asked = Asked(self.command, self.path, self.headers)
        self.web.asked.append(asked)
        path, _, query = self.path.partition("?")
        answer = self.web.answers.get(path) or self.web.answers.get("*")
        made = answer(asked) if callable(answer) else answer
        if made is not None and (made.status != 200 or made.authorization != asked.headers.get("Authorization", "")):
            self.answer(made, asked)
            return
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while count := int(self.rfile.readline(), 16):
                body += self.rfile.read(count)
                self.rfile.readline()
            self.rfile.readline()
        environment = {
            **ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", "http-backend"],
            input=body,
            env=environment,
            capture_output=True,
            check=False,
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0])
        self.answer(Answer(content, status=status, headers=headers), Asked(self.command, self.path, self.headers))

    do_POST = do_GET


@contextmanager
def serve(root: Path, certificate: Path | None = None) -> Iterator[Web]:
    """Give a server of the repositories below `root`."""
    handler: Any = type("GitHandler", (_Handler,), {"root": root})
    with servers.serve(certificate, handler=handler) as web:
        yield web
