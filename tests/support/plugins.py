"""Plugins of third parties, as an installer would leave them: folders with a distribution's metadata."""

import base64
import hashlib
import os
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path


def add(
    folder: Path,
    entry_points: str,
    files: dict[str, str],
    *,
    name: str = "third-party",
    version: str = "1.2",
    summary: str = "Made in a test",
    requires: tuple[str, ...] = ("pybuild>=0.1,<1",),
) -> Path:
    """Write a distribution into a folder of its own and return the folder."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    headers = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", f"Summary: {summary}"]
    headers += [f"Requires-Dist: {requirement}" for requirement in requires]
    (info / "METADATA").write_text("\n".join([*headers, "", "What it is."]))
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
    for path, text in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(textwrap.dedent(text))
    return folder


def add_executable(path: Path, script: str) -> Path:
    """Write an executable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(script))
    os.chmod(path, 0o755)
    return path


def wheel(
    directory: Path,
    name: str,
    files: dict[str, str | bytes],
    *,
    version: str = "1.0",
    entry_points: str = "",
    requires: tuple[str, ...] = (),
    tag: str = "py3-none-any",
    change: Callable[[dict[str, bytes]], None] | None = None,
) -> Path:
    """Write a wheel and return its path; `change` may spoil its members when RECORD is done."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    headers = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Summary: From a wheel"]
    headers += [f"Requires-Dist: {requirement}" for requirement in requires]
    members = {
        path: data if isinstance(data, bytes) else textwrap.dedent(data).encode() for path, data in files.items()
    }
    members[f"{info}/METADATA"] = "\n".join([*headers, ""]).encode()
    members[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nTag: {tag}\n".encode()
    if entry_points:
        members[f"{info}/entry_points.txt"] = textwrap.dedent(entry_points).encode()
    rows = []
    for path, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(data)}\n")
    members[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    if change is not None:
        change(members)
    place = directory / f"{stem}-{tag}.whl"
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(place, "w") as archive:
        for path, data in members.items():
            archive.writestr(path, data)
    return place
