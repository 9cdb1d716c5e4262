"""Results that go to the client over its session (FileSend/DiffCopy): archives as bytes, trees file by file."""

import io
import stat
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from threading import Event as Flag
from typing import Any, BinaryIO, cast

from pybuild.buildkit import messages
from pybuild.buildkit.grpc import GrpcError, Headers
from pybuild.buildkit.receiving import DATA, ERROR, FIN, REQUEST, STAT
from pybuild.buildkit.sessions import Session
from pybuild.buildkit.talk import Talk
from pybuild.errors import PybuildError, UsageError

DIFF_COPY = "/moby.filesync.v1.FileSend/DiffCopy"
_BLOCK = 1 << 18
_GO_DIR, _GO_LINK, _GO_FIFO = 1 << 31, 1 << 27, 1 << 25
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


class SendError(PybuildError):
    """The client does not take a result."""


class _Way(io.RawIOBase):
    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        block = bytes(data[:_BLOCK])
        self._talk.send(messages.BYTES.encode({"data": block}))
        return len(block)


def send_archive(
    session: Session, number: int, told: Mapping[str, str], write: Callable[[BinaryIO], None], cancel: Flag
) -> None:
    """Send what `write` writes as the result of the exporter `number`; raise SendError, CancelledError."""
    with _talk(session, number, told, cancel) as talk:
        try:
            out = io.BufferedWriter(_Way(talk), _BLOCK)
            try:
                write(cast(BinaryIO, out))
                out.flush()
            finally:
                # Not closed: that would send what is left of a failed archive
                out.detach()
            talk.end()
            while talk.receive() is not None:
                pass
        except GrpcError as error:
            raise SendError(f"the client does not take the result: {error.message}") from error


def send_tree(session: Session, number: int, write: Callable[[BinaryIO], None], cancel: Flag) -> None:
    """Send the files of the tar that `write` writes, without devices; raise SendError, CancelledError."""
    with tempfile.TemporaryFile() as file:
        write(file)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as archive:
            # As paths compare, a directory's files come directly behind it
            members = sorted(archive.getmembers(), key=lambda member: _name(member).split("/"))
        with _talk(session, number, {}, cancel) as talk:
            try:
                _send_members(talk, file, [member for member in members if _name(member) and not member.isdev()])
            except GrpcError as error:
                raise SendError(f"the client does not take the result: {error.message}") from error


def _send_members(talk: Talk, file: BinaryIO, members: list[tarfile.TarInfo]) -> None:
    by_name = {_name(member): member for member in members}
    firsts: dict[str, str] = {}
    contents: list[tarfile.TarInfo | None] = []
    for member in members:
        name, link = _name(member), ""
        content: tarfile.TarInfo | None = member if member.isreg() else None
        target = member.linkname.strip("/") if member.islnk() else name
        if member.islnk() or member.isreg():
            # Of the names of one file the first one that is sent has to have the content
            first = firsts.setdefault(target, name)
            link = first if first != name else ""
            content = None if link else by_name.get(target, member)
        talk.send(messages.PACKET.encode({"type": STAT, "stat": _stat(member, name, link, content)}))
        contents.append(content)
    talk.send(messages.PACKET.encode({"type": STAT}))
    while (message := talk.receive()) is not None:
        packet = messages.PACKET.decode(message)
        if packet["type"] == REQUEST:
            number = packet["ID"]
            wanted = contents[number] if number < len(contents) else None
            if wanted is None:
                raise SendError("the client asked for what is no file")
            file.seek(wanted.offset_data)
            left = wanted.size
            while left:
                block = file.read(min(left, _BLOCK))
                left -= len(block)
                talk.send(messages.PACKET.encode({"type": DATA, "ID": number, "data": block}))
            talk.send(messages.PACKET.encode({"type": DATA, "ID": number}))
        elif packet["type"] == FIN:
            talk.send(messages.PACKET.encode({"type": FIN}))
            talk.end()
        elif packet["type"] == ERROR:
            raise SendError(f"the client cannot keep the result: {packet['data'].decode(errors='replace')}")


def _stat(member: tarfile.TarInfo, name: str, link: str, content: tarfile.TarInfo | None) -> dict[str, Any]:
    mode = member.mode & 0o777
    for bit, go in _GO_BITS:
        mode |= go if member.mode & bit else 0
    if member.isdir():
        mode |= _GO_DIR
    elif member.issym():
        mode, link = 0o777 | _GO_LINK, member.linkname
    elif member.isfifo():
        mode |= _GO_FIFO
    return {
        "path": name,
        "mode": mode,
        "uid": member.uid,
        "gid": member.gid,
        "size": content.size if content is not None else 0,
        "modTime": int(float(member.pax_headers.get("mtime", member.mtime)) * 1_000_000_000),
        "linkname": link,
    }


def _name(member: tarfile.TarInfo) -> str:
    name = member.name.removeprefix("./").strip("/")
    return "" if name == "." else name


def _talk(session: Session, number: int, told: Mapping[str, str], cancel: Flag) -> Talk:
    if not session.serves(DIFF_COPY):
        raise UsageError("the client's session takes no results")
    metadata: Headers = [("buildkit-attachable-exporter-id", str(number))]
    metadata += [(f"exporter-md-{key}", value) for key, value in told.items()]
    return Talk(session, DIFF_COPY, metadata, cancel)
