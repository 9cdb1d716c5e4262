"""Programs that keep credentials: docker's protocol of credential helpers (`docker-credential-NAME`)."""

import os
import re
import stat
import subprocess
from collections.abc import Mapping
from typing import Any

import msgspec

from pybuild.registry.authorization import Credentials
from pybuild.registry.errors import AuthError

SECONDS = 60.0
"""How long a helper may take: it may ask its user."""

MAX_OUTPUT = 64 << 10
TOKEN_USER = "<token>"
"""The name under which helpers give identity tokens."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_NOT_FOUND = ("credentials not found", "no credentials", "not found in native keychain")


class Helper:
    """One helper, by the name that configuration gives it; `environment` goes on top of the process's own."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        if not _NAME.fullmatch(name):
            raise AuthError(f"not a name of a credential helper: {name!r:.100}", "see `credsStore` and `credHelpers`")
        self.program = f"docker-credential-{name}"
        self._environment = {**os.environ, **environment}

    def get(self, server: str) -> Credentials | None:
        """Return what the helper has for a server, None for nothing; raise AuthError when it fails."""
        status, output = self._run("get", server.encode())
        if status:
            told = " ".join(output.decode(errors="replace").split())[:200]
            if any(words in told.lower() for words in _NOT_FOUND):
                return None
            raise AuthError(
                f"{self.program} cannot give the credentials for {server}: {told or f'it ends with {status}'}"
            )
        try:
            answer: Any = msgspec.json.decode(output)
            username, secret = answer["Username"], answer["Secret"]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise AuthError(f"{self.program} gives an answer that is not to be understood for {server}") from error
        if not isinstance(username, str) or not isinstance(secret, str):
            raise AuthError(f"{self.program} gives an answer that is not to be understood for {server}")
        if username == TOKEN_USER:
            return Credentials(identity_token=secret)
        return Credentials(username, secret) if username or secret else None

    def store(self, server: str, credentials: Credentials) -> None:
        """Have credentials kept; raise AuthError."""
        username, secret = credentials.username, credentials.password
        if credentials.identity_token:
            username, secret = TOKEN_USER, credentials.identity_token
        given = {"ServerURL": server, "Username": username, "Secret": secret}
        self._need(*self._run("store", msgspec.json.encode(given)), f"cannot keep the credentials for {server}")

    def erase(self, server: str) -> None:
        """Have credentials forgotten, there or not; raise AuthError."""
        status, output = self._run("erase", server.encode())
        told = output.decode(errors="replace").lower()
        if not any(words in told for words in _NOT_FOUND):
            self._need(status, output, f"cannot forget the credentials for {server}")

    def _need(self, status: int, output: bytes, what: str) -> None:
        if status:
            told = " ".join(output.decode(errors="replace").split())[:200]
            raise AuthError(f"{self.program} {what}: {told or f'it ends with {status}'}")

    def _run(self, action: str, given: bytes) -> tuple[int, bytes]:
        path = self._find()
        try:
            process = subprocess.Popen(
                [path, action],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                cwd="/",
                start_new_session=False,
            )
        except OSError as error:
            raise AuthError(f"cannot run {path}: {error.strerror}") from error
        with process:
            try:
                output, _ = process.communicate(given, timeout=SECONDS)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise AuthError(f"{self.program} took longer than {SECONDS:g} seconds") from error
        if len(output) > MAX_OUTPUT:
            raise AuthError(f"{self.program} says more than {MAX_OUTPUT} bytes")
        return process.returncode, output

    def _find(self) -> str:
        """Return the program's path, from directories of PATH that not everybody can write to."""
        passed: list[str] = []
        for directory in self._environment.get("PATH", os.defpath).split(os.pathsep):
            path = os.path.join(directory, self.program)
            if os.path.isabs(directory) and os.access(path, os.X_OK) and os.path.isfile(path):
                if not _is_open_to_all(directory):
                    return path
                passed.append(path)
        if passed:
            raise AuthError(f"a credential helper is not run from where everybody may put one: {passed[0]}")
        raise AuthError(
            f"the credential helper is not there: {self.program}",
            "install it, or take `credsStore` and `credHelpers` out of the configuration",
        )


def _is_open_to_all(directory: str) -> bool:
    try:
        return bool(os.stat(directory).st_mode & stat.S_IWOTH)
    except OSError:
        return True
