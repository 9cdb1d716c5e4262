"""The smallest image with a shell: the host's static busybox, its applets and two users."""

import io
import subprocess
import tarfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/srv:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
_GROUP = "root:x:0:\nwww:x:33:\nstaff:x:50:www\nnogroup:x:65534:\n"


def is_static(path: Path = BUSYBOX) -> bool:
    """Tell whether `path` is a program that needs no libraries: an ELF file without an interpreter."""
    return path.is_file() and b"ld-linux" not in path.read_bytes()[:4096] and b"ld-musl" not in path.read_bytes()[:4096]


def write_rootfs(target: Path) -> Path:
    """Write the root file system as a tar; the same bytes every time."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(target, "w") as archive:
        for name, mode in [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("srv", 0o755), ("tmp", 0o1777)]:
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, mode
            archive.addfile(directory)
        for name, data, mode in [
            ("bin/busybox", BUSYBOX.read_bytes(), 0o755),
            ("etc/passwd", _PASSWD.encode(), 0o644),
            ("etc/group", _GROUP.encode(), 0o644),
        ]:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
                archive.addfile(link)
    return target
