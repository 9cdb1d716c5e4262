"""Exporters of other distributions (`pybuild.exporters`): `pybuild build -o type=NAME,KEY=VALUE`.

One is a function that takes an `ExportedImage`. It runs in a process of its own and reads the image as an OCI archive.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, cast

from pybuild.plugin.errors import PluginError
from pybuild.plugin.found import EXPORTER, Found, usable

_MAX_ANSWER = 64 * 1024  # bytes


class ExportedImage(NamedTuple):
    """An image to be written somewhere: `attrs` are what --output says besides, `archive` is a tar of an OCI layout,
    which is read once from the beginning to the end.
    """

    id: str
    tags: tuple[str, ...]
    attrs: Mapping[str, str]
    archive: BinaryIO


def exporters() -> dict[str, Found]:
    """Return the exporters by name, those that cannot be used included."""
    return usable((EXPORTER,))


def known_exporter(name: str) -> bool:
    """Tell whether there is an exporter of that name; raise PluginError for one that cannot be used."""
    plugin = exporters().get(name)
    if plugin is not None and plugin.problem:
        raise PluginError(plugin, f"cannot be used: {plugin.problem}")
    return plugin is not None


@contextmanager
def exporter(plugin: Found, image: str, tags: Sequence[str], attrs: Mapping[str, str]) -> Iterator[BinaryIO]:
    """Give what an OCI archive of the image is to be written to; wait for the exporter at the end.

    Raises PluginError when it has failed.
    """
    import subprocess

    from pybuild.plugin.processes import child_command

    process = subprocess.Popen(child_command("export", plugin.name), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            process.stdin.write(json.dumps({"image": image, "tags": [*tags], "attrs": dict(attrs)}).encode() + b"\n")
            yield cast(BinaryIO, process.stdin)
            process.stdin.close()
        except BrokenPipeError:
            # It may have had enough, or failed: its answer tells
            pass
        out = process.stdout.read(_MAX_ANSWER)
        process.wait()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        try:
            process.stdin.close()
        except BrokenPipeError:
            # What was not written by then is of no use to anybody
            pass
    try:
        answer = json.loads(out)
    except ValueError as error:
        raise PluginError(plugin, f"has ended without an answer (exit code {process.returncode})") from error
    if "error" in answer:
        raise PluginError(plugin, f"has failed: {answer['error']}", answer.get("hint", ""))


def answer(export: Any, given: BinaryIO) -> dict[str, Any]:
    """Let an exporter read what it is given."""
    head = json.loads(given.readline())
    export(ExportedImage(head["image"], tuple(head["tags"]), head["attrs"], given))
    # Whoever writes the archive is not to fail for what nobody wants to read
    while given.read(1 << 20):
        continue
    return {}
