"""What of a request another machine cannot see: files that go along with it, and what stays with us.

The context is packed here, without what the ignore file leaves out, and sent; the Dockerfile goes as text. Archives of
the image are fetched when it is built. Credentials go along for those registries that the request speaks of.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from pybuild.api.request import BuildRequest, Output, Registries, Secret
from pybuild.errors import NotFoundError, PybuildError, UsageError

if TYPE_CHECKING:
    from pybuild.registry.credentials import CredentialFiles

_HUB = "docker.io"
_PLACE = ".pybuild-named-contexts"
"""Where in a context that is sent others are; what is called so itself is hidden by them."""
_MAX_DOCKERFILE = 4 << 20
_MAX_IGNORE = 4 << 20


class Shipment(NamedTuple):
    """A request as the other machine gets it.

    `write` writes the context to a stream, None when there is none of ours; `outputs` are written here afterwards.
    """

    request: BuildRequest
    write: Callable[[BinaryIO], None] | None
    outputs: tuple[Output, ...]


def ship(request: BuildRequest, where: str) -> Shipment:
    """Return the request for the daemon of `where`; raise UsageError for what only this machine's could do."""
    _refuse(request, where)
    here = tuple(output for output in request.outputs if output.dest)
    if here:
        from pybuild.engine.exporting import check

        check(here)
    sent = request._replace(
        outputs=tuple(output for output in request.outputs if not output.dest),
        # Those of this machine lead nowhere from there
        proxies={},
    )
    if not os.path.isabs(request.context):
        return Shipment(_with_logins(sent, request.registries, text=None), None, here)
    root = Path(request.context)
    text, name, file = _dockerfile(request, root)
    ignore = _ignore_file(root, file)
    contexts, more = _named(request.build_contexts)
    # They come in the main context, of which they are no part
    own = f"{ignore}\n{_PLACE}\n" if more else ignore
    sent = sent._replace(context="", dockerfile=name, dockerfile_text=text, ignore_text=own, build_contexts=contexts)
    sent = _with_logins(sent, request.registries, text=text)

    def write(out: BinaryIO) -> None:
        from pybuild.context.archive import pack_context
        from pybuild.context.ignore import IgnoreMatcher, load_ignore

        others = {os.fsencode(place): (path, load_ignore(path, None)) for place, path in more.items()}
        pack_context(root, IgnoreMatcher.parse(ignore), out, always=(), more=others)

    return Shipment(sent, write, here)


def _refuse(request: BuildRequest, where: str) -> None:
    elsewhere = f"the build is done by {where}"
    if request.ssh:
        raise UsageError(f"--ssh does not go to another machine: {elsewhere}, and the agent is here")
    if request.on_fail:
        raise UsageError(
            f"--shell-on-fail does not go to another machine: {elsewhere}", "run pybuild there for a shell"
        )
    in_place = os.path.isabs(request.context)
    for name, value in request.build_contexts.items():
        if value.startswith("oci-layout://") or (os.path.isabs(value) and not in_place):
            raise UsageError(
                f"the named context is a directory of this machine: {name}: {elsewhere}",
                "with a directory as the main context other directories are sent; an image can be pushed before",
            )
    for output in (*request.cache_from, *request.cache_to):
        if output.type == "local":
            raise UsageError(f"a cache of type local is a directory of this machine: {elsewhere}", "use type=registry")
    for output in request.outputs:
        if output.type == "oci" and output.attrs.get("tar", "true").lower() in ("false", "0"):
            raise UsageError(
                f"--output does not write a layout when {elsewhere}: {output.dest}", "use type=oci, and unpack it"
            )


def _named(given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Path]]:
    """Return named contexts as they are sent, and the directories among them by where they come."""
    from pybuild.plan.contexts import SENT

    contexts: dict[str, str] = {}
    more: dict[str, Path] = {}
    for name, value in given.items():
        if os.path.isabs(value):
            place = f"{_PLACE}/{len(more)}"
            more[place] = Path(value)
            contexts[name] = SENT + place
        else:
            contexts[name] = value
    return contexts, more


def _dockerfile(request: BuildRequest, root: Path) -> tuple[str, str, Path | None]:
    """Return the text, what messages call it, and the file it is from."""
    if request.dockerfile_text is not None:
        return request.dockerfile_text, request.dockerfile, None
    path = root / (request.dockerfile or "Dockerfile")
    try:
        data = _read(path, _MAX_DOCKERFILE)
        text = data.decode()
    except FileNotFoundError:
        raise NotFoundError(
            f"cannot find the Dockerfile: {path}", "name it with `-f FILE`, or give the directory that holds it"
        ) from None
    except OSError as error:
        raise PybuildError(f"cannot read the Dockerfile: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the Dockerfile is not UTF-8: {path}") from error
    return text, os.path.relpath(path, root) if path.is_relative_to(root) else str(path), path


def _ignore_file(root: Path, dockerfile: Path | None) -> str:
    from pybuild.context.ignore import find_ignore_file

    path = find_ignore_file(root, dockerfile)
    if path is None:
        return ""
    try:
        return _read(path, _MAX_IGNORE).decode(errors="surrogateescape")
    except OSError as error:
        raise PybuildError(f"cannot read the ignore file: {path}: {error.strerror}") from error


def _read(path: Path, limit: int) -> bytes:
    # A fifo under that name must not make us hang
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UsageError(f"over {limit} bytes: {path}")
    return data


def with_logins(registries: Registries, speaks_of: str | None) -> Registries:
    """Return how registries are reached from elsewhere: with our credentials for those that a text speaks of.

    None is for a text that is not known: then all go. One that cannot be had now is left out; whoever needs it is told
    so by the registry.
    """
    from pybuild.registry.credentials import CredentialFiles
    from pybuild.registry.errors import AuthError

    files = CredentialFiles(registries.environment, registries.given)
    given = dict(registries.given)
    for host in _known(files):
        if host in given or not (speaks_of is None or host == _HUB or host in speaks_of):
            continue
        try:
            found = files.lookup(host)
        except AuthError:
            continue
        if found is not None:
            entry = {"username": found.username, "password": found.password, "identitytoken": found.identity_token}
            given[host] = Secret(json.dumps({key: value for key, value in entry.items() if value}).encode())
    return Registries(insecure=registries.insecure, realms=registries.realms, given=given)


def _known(files: "CredentialFiles") -> Iterator[str]:
    from pybuild.registry.credentials import host_in, read

    seen: set[str] = set()
    for path in files.places():
        document = read(path) or {}
        for name in ("auths", "credHelpers"):
            table = document.get(name)
            for key in table if isinstance(table, dict) else ():
                host = host_in(str(key))
                if host not in seen:
                    seen.add(host)
                    yield host


def _with_logins(sent: BuildRequest, ours: Registries, *, text: str | None) -> BuildRequest:
    names: str | None = None
    if text is not None:
        places = [*(dict(output.attrs) for output in (*sent.outputs, *sent.cache_from, *sent.cache_to))]
        names = json.dumps([text, sent.tags, [*sent.build_args.values()], [*sent.build_contexts.values()], places])
    return sent._replace(registries=with_logins(ours, names))
