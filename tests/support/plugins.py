"""Plugins of third parties, as an installer would leave them: folders with a distribution's metadata."""

import os
import textwrap
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
