"""The image `box` that cases build on: busybox with the places that RUN mounts on, and things to copy onto."""

import io
import tarfile
from pathlib import Path

from conformance.contexts import MTIME
from conformance.rows import parse_row
from support import busybox

NAME = "box"

CONTENT = """\
dir dev
dir proc
dir sys
file etc/hosts ""
file etc/resolv.conf ""
dir old 0750 5:6
file old/file 0640 5:6 "old"
dir old/sub 0700 7:8
file old/sub/inner 0600 7:8 "inner"
symlink to-old -> /old
symlink to-sub -> old/sub
symlink to-file -> /old/file
symlink to-nothing -> /not/there
symlink up -> ../../../etc
"""


_NAMES = """
[ awk cat chmod chown cp cut dd echo env false grep head id ip kill ln ls mkdir mkfifo mknod mv printf pwd rm rmdir sed
seq sh sleep sort stat tail test touch tr true wc yes
"""
APPLETS = frozenset(_NAMES.split())
"""What of busybox is in it: each test reads the whole of it."""


def write(target: Path) -> Path:
    """Write the root file system as a tar."""
    everything = busybox.write_rootfs(target.with_suffix(".all"))
    with tarfile.open(everything) as source, tarfile.open(target, "w") as archive:
        for member in source:
            if not member.issym() or member.name.removeprefix("bin/") in APPLETS:
                archive.addfile(member, source.extractfile(member) if member.isreg() else None)
        for row in map(parse_row, CONTENT.splitlines()):
            member = tarfile.TarInfo(row.path)
            member.type = {"dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}.get(row.kind, tarfile.REGTYPE)
            member.mode = row.mode if row.mode is not None else 0o755 if row.kind == "dir" else 0o644
            member.uid, member.gid = row.owner or (0, 0)
            member.mtime, member.linkname = MTIME, row.link or ""
            data = row.content if isinstance(row.content, bytes) else b""
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target
