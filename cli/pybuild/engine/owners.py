"""User and group names looked up in an image's own files; nothing of the host is asked."""

from pybuild.dockerfile.mounts import MAX_ID
from pybuild.engine.sources import LayerSource
from pybuild.errors import PybuildError


class OwnerError(PybuildError):
    """A user or group that the image does not know."""

    http_status = 400


def owner_of(spec: str, image: LayerSource | None) -> tuple[int, int]:
    """Return (uid, gid) of `user[:group]` with names or numbers.

    A number alone is uid and gid; a name alone brings its primary group; an empty part is 0. `image` None means
    there is no image to ask (COPY --link). Raises OwnerError for a name that is not there.
    """
    user, colon, group = spec.partition(":")
    if not user and not group:
        raise OwnerError(f"empty owner: {spec!r}", "write `user`, `user:group` or numbers")
    uid, primary = _user(user, image) if user else (0, 0)
    if not colon:
        return uid, primary
    return uid, _group(group, image) if group else 0


def _user(name: str, image: LayerSource | None) -> tuple[int, int]:
    number = _number(name)
    if number is not None:
        return number, number
    _needs_image(image, "user", name)
    for fields in _rows(image, b"etc/passwd", 4):
        uid, gid = _id(fields[2]), _id(fields[3])
        if fields[0] == name and uid is not None and gid is not None:
            return uid, gid
    raise OwnerError(f"no such user in the image's /etc/passwd: {name}", "use a numeric id, or add the user first")


def _group(name: str, image: LayerSource | None) -> int:
    number = _number(name)
    if number is not None:
        return number
    _needs_image(image, "group", name)
    for fields in _rows(image, b"etc/group", 3):
        gid = _id(fields[2])
        if fields[0] == name and gid is not None:
            return gid
    raise OwnerError(f"no such group in the image's /etc/group: {name}", "use a numeric id, or add the group first")


def _needs_image(image: LayerSource | None, kind: str, name: str) -> None:
    if image is None:
        raise OwnerError(
            f"with --link there is no image to look up a {kind} in: {name}", "use a numeric id, or leave out `--link`"
        )


def _number(text: str) -> int | None:
    """Return the id that a word of digits is, None for a name."""
    if not (text.isascii() and text.isdigit()):
        return None
    number = _id(text)
    if number is None:
        raise OwnerError(f"id is out of range: {text:.40}")
    return number


def _id(text: str) -> int | None:
    """Return an id, None for anything else."""
    # Ten digits hold every id, and a longer number need not be read
    if not (text.isascii() and text.isdigit()) or len(text.lstrip("0")) > 10:
        return None
    number = int(text[-10:])
    return number if number <= MAX_ID else None


def _rows(image: LayerSource | None, path: bytes, least: int) -> list[list[str]]:
    data = image.read(path) if image is not None else None
    lines = (data or b"").decode(errors="replace").splitlines()
    rows = [line.split(":") for line in lines]
    return [row for row in rows if len(row) >= least]
