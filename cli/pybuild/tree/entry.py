"""One row of a table of contents, and its encoding."""

import msgspec

FILE, DIR, SYMLINK, HARDLINK, CHAR, BLOCK, FIFO, WHITEOUT = "f", "d", "l", "h", "c", "b", "p", "w"


class Entry(msgspec.Struct, array_like=True, gc=False, kw_only=True):
    """A path in a layer, image or context.

    `path` is relative to the root, without leading, trailing or doubled slashes; the root is b"".
    `mode` are the permission bits (0o7777). `mtime` is in nanoseconds since the epoch. `link` is a symlink's
    target as written, or a hard link's path in the same layer. `digest` is the raw sha256 of a file's
    content, b"" when not known. `offset` is where the content begins in the layer's uncompressed tar, -1
    when there is none. `rdev` is (major, minor). A WHITEOUT names the removed path itself. `opaque` on a
    directory hides what lower layers have in it. A HARDLINK row repeats mode, owner, size, mtime, xattrs,
    digest and offset of the file it names.
    """

    path: bytes
    type: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    digest: bytes = b""
    offset: int = -1
    rdev: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = {}
    opaque: bool = False


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Entry])


def encode_toc(entries: list[Entry]) -> bytes:
    """Return the table as msgpack."""
    return _encoder.encode(entries)


def decode_toc(data: bytes) -> list[Entry]:
    """Return the table in `data`; raise msgspec.DecodeError for anything else."""
    return _decoder.decode(data)
