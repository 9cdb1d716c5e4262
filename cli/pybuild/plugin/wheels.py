"""Wheels (PyPA: binary distribution format), unpacked into a folder and held against their RECORD."""

import base64
import csv
import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from pybuild.errors import PybuildError, UsageError

MAX_BYTES = 1 << 30
MAX_FILES = 100_000

_BLOCK = 1 << 20
_LIBRARIES = ("purelib", "platlib")
_UNSIGNED = ("RECORD", "RECORD.jws", "RECORD.p7s")
"""Files of dist-info that RECORD cannot tell the digest of."""


class Wheel(NamedTuple):
    """A wheel that was unpacked: `sha256` is that of the whole file."""

    name: str
    version: str
    sha256: str
    requires: tuple[str, ...]


class WheelError(PybuildError):
    """A wheel that is damaged, or does not fit here."""


def fits(path: Path) -> bool:
    """Tell whether a file is a wheel that this Python on this machine can use, by its name."""
    from packaging.tags import sys_tags
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        tags = parse_wheel_filename(path.name)[3]
    except InvalidWheelFilename:
        return False
    return not tags.isdisjoint(set(sys_tags()))


def unpack(path: Path, folder: Path) -> Wheel:
    """Unpack a wheel into `folder` and return what it is; raise WheelError, nothing is cleaned up then.

    Each file is held against RECORD. Scripts, headers and data of the wheel are left out: a plugin has no use for them.
    """
    if not fits(path):
        raise WheelError(f"not a wheel for this Python and machine: {path.name}")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            info = _info_of(archive, path)
            digests = _record(archive.read(f"{info}/RECORD"), path)
            _check_names(archive, digests, info, path)
            for member in archive.infolist():
                if not member.is_dir():
                    _unpack_member(archive, member, digests, info, folder, path)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            headers = _headers(archive.read(f"{info}/METADATA"))
    except (OSError, KeyError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise WheelError(f"cannot read the wheel: {path}: {error}") from error
    return Wheel(headers["name"][0], headers["version"][0], sha256, tuple(headers.get("requires-dist", ())))


def _info_of(archive: zipfile.ZipFile, path: Path) -> str:
    found = {name.partition("/")[0] for name in archive.namelist() if name.partition("/")[0].endswith(".dist-info")}
    if len(found) != 1:
        raise WheelError(f"the wheel has {len(found)} directories of metadata, not one: {path}")
    [info] = found
    version = _headers(archive.read(f"{info}/WHEEL")).get("wheel-version", ["?"])[0]
    if version.partition(".")[0] != "1":
        raise WheelError(f"wheels of version {version} are not known: {path}")
    return info


def _headers(data: bytes) -> dict[str, list[str]]:
    from pybuild.plugin.found import headers_of

    return headers_of(data.decode(errors="replace"))


def _record(data: bytes, path: Path) -> dict[str, str]:
    """Return the digests by name, "" for none."""
    try:
        rows = [*csv.reader(io.StringIO(data.decode()))]
        return {row[0]: row[1] for row in rows if row}
    except (UnicodeDecodeError, csv.Error, IndexError) as error:
        raise WheelError(f"the RECORD of the wheel cannot be read: {path}: {error}") from error


def _check_names(archive: zipfile.ZipFile, digests: dict[str, str], info: str, path: Path) -> None:
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) > MAX_FILES or sum(member.file_size for member in members) > MAX_BYTES:
        raise WheelError(f"the wheel is larger than {MAX_FILES} files or {MAX_BYTES} bytes: {path}")
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise WheelError(f"the wheel has a file twice: {path}")
    for member in members:
        name = member.filename
        parts = name.split("/")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if name.startswith("/") or "\\" in name or "\0" in name or not {"", ".", ".."}.isdisjoint(parts):
            raise WheelError(f"the wheel has a file outside of it: {name!r}")
        if kind not in (0, stat.S_IFREG):
            raise WheelError(f"the wheel has what is no plain file: {name!r}")
    unsigned = {f"{info}/{name}" for name in _UNSIGNED}
    for name in sorted({*names, *digests} - unsigned):
        if not digests.get(name) or name not in names:
            raise WheelError(f"RECORD of the wheel and its files differ: {name!r}")


def _unpack_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, digests: dict[str, str], info: str, folder: Path, path: Path
) -> None:
    name = member.filename
    top, _, rest = name.partition("/")
    kind, _, inner = rest.partition("/")
    target: Path | None = folder / name
    if top.endswith(".data"):
        target = folder / inner if kind in _LIBRARIES else None
    with archive.open(member) as source:
        if target is None:
            digest = _copy(source, None)
        else:
            if target.exists():
                raise WheelError(f"two wheels have the same file: {name}")
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with target.open("xb") as out:
                digest = _copy(source, out)
            os.chmod(target, 0o755 if member.external_attr >> 16 & 0o100 else 0o644)
    wanted = digests.get(name, "")
    if wanted and wanted != digest:
        raise WheelError(f"a file of the wheel is not what RECORD says: {name} in {path}")


def _copy(source: IO[bytes], out: IO[bytes] | None) -> str:
    state = hashlib.sha256()
    while data := source.read(_BLOCK):
        state.update(data)
        if out is not None:
            out.write(data)
    return as_record(state.digest())


def as_record(digest: bytes) -> str:
    """Return a digest as RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def write_record(folder: Path, info: str) -> None:
    """Write the RECORD of all files in a folder into its `info` directory."""
    rows = [(name, as_record(_digest(folder / name)), str((folder / name).stat().st_size)) for name in _files(folder)]
    with (folder / info / "RECORD").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([*rows, (f"{info}/RECORD", "", "")])


def verify(folder: Path) -> Iterator[str]:
    """Yield what has changed in a folder of unpacked wheels since, in words."""
    wanted: dict[str, str] = {}
    for record in sorted(folder.glob("*.dist-info/RECORD")):
        for name, digest in _record(record.read_bytes(), record).items():
            top, _, rest = name.partition("/")
            kind, _, inner = rest.partition("/")
            if not top.endswith(".data"):
                wanted[name] = digest
            elif kind in _LIBRARIES:
                wanted[inner] = digest
    if not wanted:
        yield "has no RECORD"
        return
    there = set(_files(folder))
    for name in sorted(wanted):
        if name not in there and wanted[name]:
            yield f"is gone: {name}"
        elif wanted[name] and as_record(_digest(folder / name)) != wanted[name]:
            yield f"has changed: {name}"
    for name in sorted(there - wanted.keys()):
        yield f"is new: {name}"


def _files(folder: Path) -> list[str]:
    """Return the files below a folder, less what Python itself writes there."""
    found = []
    for directory, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name != "__pycache__")
        found += [os.path.relpath(os.path.join(directory, name), folder) for name in sorted(files)]
    return found


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise PybuildError(f"cannot read: {path}: {error.strerror}") from error


def best(name: str, directory: Path, specifier: str = "") -> Path | None:
    """Return the newest wheel of a distribution in a directory that fits here, None for none; raise UsageError."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.utils import canonicalize_name, parse_wheel_filename

    try:
        wanted = SpecifierSet(specifier)
    except InvalidSpecifier:
        raise UsageError(f"versions that cannot be meant: {specifier}") from None
    found = []
    for path in sorted(directory.glob("*.whl")):
        if fits(path):
            its, version, _, _ = parse_wheel_filename(path.name)
            if its == canonicalize_name(name) and wanted.contains(version):
                found.append((version, path))
    return max(found)[1] if found else None
