"""Errors as answers, headers every answer has, and how parameters are read. See docs of the Docker Engine API."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

from aiohttp import web

from pybuild import __version__
from pybuild.daemon.peers import browser, stranger
from pybuild.daemon.state import STATE
from pybuild.errors import ExitCode, PybuildError, UsageError
from pybuild.progress.escape import one_line

API_VERSION = "1.45"
MIN_API_VERSION = "1.24"
OURS = "/pybuild/"
"""What the routes begin with that Docker's clients do not know."""

log = logging.getLogger("pybuild.daemon")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error_body(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of an error: Docker's `message`, and what our client needs to raise the same again."""
    if isinstance(error, PybuildError):
        status = error.http_status
        kind, hint, exit_code = type(error).__name__, error.hint, int(error.exit_code)
        return status, {"message": error.message, "hint": hint, "kind": kind, "exit_code": exit_code}
    import traceback

    name = type(error).__name__
    return 500, {
        "message": f"unexpected {name}: {error}" if str(error) else f"unexpected {name}",
        "hint": "this is a bug in pybuild",
        "kind": name,
        "exit_code": int(ExitCode.BUG),
        "traceback": "".join(traceback.format_exception(error)),
    }


def docker_body(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of an error on a route of Docker's, whose clients show nothing but the message."""
    status, body = error_body(error)
    return status, {**body, "message": with_hint(body["message"], body["hint"])}


def with_hint(message: str, hint: str) -> str:
    """Return a sentence with its hint behind it, for who shows one line only."""
    return f"{message} ({hint})" if hint else message


@web.middleware
async def boundary(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in our own user only; count the request; turn errors into answers; write one line of log."""
    began = monotonic()
    status = 0
    try:
        with request.app[STATE].request():
            try:
                _check_peer(request)
                _check_version(request)
                response = await handler(request)
            except web.HTTPException as error:
                message = "page not found" if error.status in (404, 405) else error.reason
                response = web.json_response({"message": message}, status=404 if error.status == 405 else error.status)
            except (ConnectionResetError, BrokenPipeError):
                # The client went away: nobody is left to be told, and aiohttp knows what to do with this answer
                return web.Response(status=499)
            except Exception as error:
                code, body = (error_body if request.path.startswith(OURS) else docker_body)(error)
                if code == 500 and not isinstance(error, PybuildError):
                    log.exception("%s %s", request.method, one_line(request.path))
                response = web.json_response(body, status=code)
            status = response.status
            return response
    finally:
        level = logging.DEBUG if request.path.endswith(("/_ping", "/status")) else logging.INFO
        took = (monotonic() - began) * 1000
        log.log(level, "%s %s %s %.0f ms", request.method, one_line(request.path), status or "gone", took)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add what every answer of a Docker daemon says."""
    response.headers["Api-Version"] = API_VERSION
    response.headers["Docker-Experimental"] = "false"
    response.headers["Ostype"] = "linux"
    response.headers["Server"] = f"pybuild/{__version__} (linux)"
    if response.content_type == "application/json":
        # Docker's client compares the whole header, and shows the JSON of an error to people when it has a charset
        response.headers["Content-Type"] = "application/json"


def _check_peer(request: web.Request) -> None:
    if why := stranger(request.transport):
        log.warning("refused a connection: %s", why)
        raise web.HTTPForbidden(reason=why)
    if why := browser(request.transport, request.headers):
        raise web.HTTPForbidden(reason=why)


def _check_version(request: web.Request) -> None:
    asked = request.match_info.get("api")
    if asked is None:
        return
    number = tuple(map(int, asked.split(".")))
    if number > tuple(map(int, API_VERSION.split("."))):
        raise UsageError(f"client version {asked} is too new. Maximum supported API version is {API_VERSION}")
    if number < tuple(map(int, MIN_API_VERSION.split("."))):
        raise UsageError(f"client version {asked} is too old. Minimum supported API version is {MIN_API_VERSION}")


def boolean(query: Mapping[str, str], name: str, default: bool = False) -> bool:
    """Return a boolean parameter by Docker's rule."""
    value = query.get(name)
    return default if value is None else value.strip().lower() not in ("", "0", "no", "false", "none")


def filters(query: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the parameter `filters`: a JSON map of lists (docker-py) or of maps (docker)."""
    value = json_parameter(query, "filters", {})
    try:
        return {
            str(name): [str(key) for key, wanted in values.items() if wanted]
            if isinstance(values, dict)
            else [str(item) for item in values]
            for name, values in value.items()
        }
    except (AttributeError, TypeError) as error:
        raise UsageError(f"invalid filters: {query['filters'][:200]}") from error


def json_parameter(query: Mapping[str, str], name: str, default: Any) -> Any:
    """Return a parameter that holds JSON; absent, empty and null are `default`. Raises UsageError for another type."""
    text = query.get(name)
    if not text:
        return default
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"parameter `{name}` is no JSON: {text[:200]}") from error
    if value is None:
        return default
    if not isinstance(value, type(default)):
        raise UsageError(f"parameter `{name}` must be a JSON {type(default).__name__}: {text[:200]}")
    return value


def integer(query: Mapping[str, str], name: str) -> int:
    """Return a whole number that is not negative, 0 when absent; raise UsageError."""
    text = query.get(name) or "0"
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"parameter `{name}` must be a whole number: {text[:200]}")
    return int(text)
