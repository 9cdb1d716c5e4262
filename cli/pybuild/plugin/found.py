"""What plugins there are, by their metadata alone: none is imported to be listed.

A Python plugin is an installed distribution, in a folder of its own or beside pybuild, whose `entry_points.txt` has a
group of GROUPS. An executable is a file `pybuild-NAME`; it says who it is when asked
(`executable.py`). What is found is remembered in a file of plain lines until a directory it came from changes; reading
that takes no import at all.
"""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pybuild import __version__
from pybuild.plugin import places

VERSION = __version__
"""That of pybuild, and so of what Python plugins may use."""

API_VERSION = 1
"""Of what executables are given and answer."""

COMMAND, LINTER, EXPORTER, EVENTS, EXECUTABLE = "command", "linter", "exporter", "events", "executable"
GROUPS = {
    "pybuild.commands": COMMAND,
    "pybuild.linters": LINTER,
    "pybuild.exporters": EXPORTER,
    "pybuild.events": EVENTS,
}
PREFIX = "pybuild-"

_FORMAT = "pybuild plugins 1"
_MAX_METADATA = 1 << 20  # bytes


class Found(NamedTuple):
    """A plugin: `target` is "module:name", or the path of an executable.

    `folder` is what is put on `sys.path` for it, "" when it is there anyway. `problem` says why it cannot be used, ""
    when nothing is known against it.
    """

    name: str
    kind: str
    target: str
    folder: str
    distribution: str
    version: str
    summary: str
    problem: str = ""


def find() -> list[Found]:
    """Return all plugins in the order in which names are given away, and those that lost theirs."""
    roots = _roots()
    remembered = _remembered(roots)
    if remembered is not None:
        return remembered
    stamps: dict[str, str] = {}
    found = _judged(_look(stamps))
    _remember(roots, stamps, found)
    return found


def usable(kinds: Iterable[str]) -> dict[str, Found]:
    """Return the plugins that hold their name, those with a problem included, by name."""
    wanted = set(kinds)
    held: dict[str, Found] = {}
    for plugin in find():
        if plugin.kind in wanted and plugin.name not in held:
            held[plugin.name] = plugin
    return held


def in_folder(folder: str) -> list[Found]:
    """Return the Python plugins of a folder by its metadata, with what is wrong with each."""
    return [*_in_site(folder, folder)]


# -- looking ---------------------------------------------------------------------------------------------


def _roots() -> list[str]:
    directories = [*places.plugin_directories(), "-", *places.site_directories(), "-", *places.path_directories()]
    return [*directories, "-", places.disabled_file()]


def _look(stamps: dict[str, str]) -> Iterator[Found]:
    stamps[places.disabled_file()] = _stamp(places.disabled_file())
    for directory in places.plugin_directories():
        yield from _in_plugin_directory(directory, stamps)
    for directory in places.site_directories():
        stamps[directory] = _stamp(directory)
        yield from _in_site(directory, "")
    for directory in places.path_directories():
        stamps[directory] = _stamp(directory)
        yield from _executables(directory, stamps)


def _in_plugin_directory(directory: str, stamps: dict[str, str]) -> Iterator[Found]:
    stamps[directory] = _stamp(directory)
    if not os.path.isdir(directory):
        return
    problem = places.distrusted(directory)
    for name in _names(directory):
        folder = os.path.join(directory, name)
        if os.path.isdir(folder) and not name.startswith("."):
            stamps[folder] = _stamp(folder)
            worry = problem or places.distrusted(folder)
            for plugin in _in_site(folder, folder):
                yield plugin._replace(problem=worry) if worry else plugin
            yield from _executables(folder, stamps, worry)
    yield from _executables(directory, stamps, problem)


def _in_site(directory: str, folder: str) -> Iterator[Found]:
    """Yield the Python plugins installed in a directory."""
    for name in _names(directory):
        if not name.endswith(".dist-info"):
            continue
        text = _read(os.path.join(directory, name, "entry_points.txt"))
        if "pybuild." in text:
            yield from _of_distribution(os.path.join(directory, name), text, folder)


def _of_distribution(info: str, entry_points: str, folder: str) -> Iterator[Found]:
    headers = headers_of(_read(os.path.join(info, "METADATA")))
    distribution = (headers.get("name") or ["?"])[0]
    version = (headers.get("version") or ["?"])[0]
    summary = (headers.get("summary") or [""])[0]
    problem = _unfit(headers.get("requires-dist", []))
    for group, name, target in _entries(entry_points):
        if group in GROUPS:
            yield Found(name, GROUPS[group], target, folder, distribution, version, summary, problem)


def _entries(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield group, name and target of each line of an `entry_points.txt` (PyPA: entry points specification)."""
    group = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif line and not line.startswith(("#", ";")):
            name, _, target = line.partition("=")
            yield group, name.strip(), target.split("[")[0].strip()


def headers_of(text: str) -> dict[str, list[str]]:
    """Return the headers of a METADATA file by name in lower case; what follows them is left out."""
    headers: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line:
            break
        name, colon, value = line.partition(":")
        if colon and not name[:1].isspace():
            headers.setdefault(name.strip().lower(), []).append(value.strip())
    return headers


def _unfit(requirements: Iterable[str]) -> str:
    """Return why a distribution with these requirements does not fit this pybuild, "" when it does."""
    wanted = [text for text in requirements if text[:7].lower() == "pybuild" and text[7:8] in "<>=!~ ;(["]
    if not wanted:
        return ""
    from packaging.requirements import InvalidRequirement, Requirement

    from pybuild import __version__

    for text in wanted:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            return f"its requirement cannot be read: {text}"
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            return f"needs pybuild {requirement.specifier}, this is {__version__}"
    return ""


def _executables(directory: str, stamps: dict[str, str], problem: str = "") -> Iterator[Found]:
    """Yield the executables in a directory, asking those that may be run who they are."""
    paths = [os.path.join(directory, name) for name in _names(directory) if name.startswith(PREFIX)]
    paths = [path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)]
    if not paths:
        return
    from pybuild.plugin.executable import ask

    worries = {path: problem or places.distrusted(path) for path in paths}
    answers = ask([path for path in paths if not worries[path]])
    for path in paths:
        stamps[path] = _stamp(path)
        plain = Found(os.path.basename(path)[len(PREFIX) :], EXECUTABLE, path, "", os.path.basename(path), "?", "")
        yield plain._replace(problem=worries[path]) if worries[path] else answers[path]


def _judged(plugins: Iterable[Found]) -> list[Found]:
    """Return the plugins, each that may not have its name with the reason."""
    off = places.disabled()
    held: dict[tuple[str, str], Found] = {}
    judged: list[Found] = []
    for plugin in plugins:
        plugin = plugin._replace(**{field: _line(value) for field, value in plugin._asdict().items()})
        key = (COMMAND if plugin.kind == EXECUTABLE else plugin.kind, plugin.name)
        if not plugin.name.replace("-", "").replace("_", "").isalnum():
            plugin = plugin._replace(problem="its name is not of letters, digits and dashes")
        elif key in held:
            plugin = plugin._replace(problem=f"its name is taken by {held[key].distribution} {held[key].version}")
        elif plugin.name in off:
            held[key] = plugin = plugin._replace(problem="disabled")
        else:
            held[key] = plugin
        judged.append(plugin)
    return judged


def _line(text: str) -> str:
    """Return text as one line without what could play tricks on a terminal, or on the file of lines."""
    return "".join(char if char.isprintable() else " " for char in text)[:500]


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        # One that cannot be listed holds no plugin for us
        return []


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_METADATA)
    except OSError:
        # Not there, as it is for most distributions
        return ""


# -- remembering -----------------------------------------------------------------------------------------


def _stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "-"
    return f"{status.st_mtime_ns}:{status.st_ino}"


def _heading(roots: list[str]) -> list[str]:
    from pybuild import __version__

    return [_FORMAT, __version__, os.pathsep.join(roots).replace("\n", " ")]


def _remembered(roots: list[str]) -> list[Found] | None:
    """Return what was found the last time, None when that is not known to hold."""
    try:
        with open(places.index_file(), encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except OSError:
        return None
    heading = _heading(roots)
    if lines[: len(heading)] != heading or lines[-2:] != ["end", ""]:
        return None
    found: list[Found] = []
    for line in lines[len(heading) : -2]:
        kind, *fields = line.split("\t")
        if kind == "stamp" and len(fields) == 2:
            if _stamp(fields[0]) != fields[1]:
                return None
        elif kind == "plugin" and len(fields) == len(Found._fields):
            found.append(Found(*fields))
        else:
            return None
    return found


def _remember(roots: list[str], stamps: dict[str, str], found: list[Found]) -> None:
    lines = [
        *_heading(roots),
        *(f"stamp\t{path}\t{stamp}" for path, stamp in stamps.items()),
        *("\t".join(("plugin", *plugin)) for plugin in found),
        "end",
        "",
    ]
    if any("\t" in path or "\n" in path for path in stamps):
        return
    place = places.index_file()
    aside = f"{place}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        with open(aside, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\n".join(lines))
        os.replace(aside, place)
    except OSError:
        # Looking again takes a little longer and comes to the same
        return
