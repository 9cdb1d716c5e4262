"""The files of a build context for plugins: what is there, what the ignore file leaves out, what a build uses."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pybuild.api.events import Read
from pybuild.context.effects import Effect, effects
from pybuild.context.errors import ContextError
from pybuild.context.footprint import Footprint
from pybuild.context.ignore import IgnoreMatcher, find_ignore_file, load_ignore
from pybuild.context.memory import DigestMemory
from pybuild.context.survey import Seen, Survey, survey
from pybuild.errors import NotFoundError, PybuildError


class IgnoreLine(NamedTuple):
    """A line of an ignore file that is a pattern: `pattern` is cleaned, without the `!` that `negated` tells of."""

    number: int
    pattern: str
    negated: bool


class Context:
    """A build context: the directory `root`, the Dockerfile that builds from it (None: there is none), its ignore file.

    Made by `open_context`.
    """

    def __init__(self, root: Path, dockerfile: Path | None, ignore_file: Path | None, ignore: IgnoreMatcher) -> None:
        self.root, self.dockerfile, self.ignore_file = root, dockerfile, ignore_file
        self._ignore = ignore

    @cached_property
    def ignore_lines(self) -> list[IgnoreLine]:
        """Return the patterns of the ignore file in order."""
        ignore = self._ignore
        return [
            IgnoreLine(line, pattern.removeprefix("!") if negated else pattern, negated)
            for line, pattern, negated in zip(ignore.lines, ignore.patterns, ignore.negated, strict=True)
        ]

    def ignoring_lines(self, path: str) -> list[IgnoreLine]:
        """Return the lines that were asked about a path and matched it, in order: the last one has decided.

        It is left out when there is one and the last is not negated.
        """
        state = self._ignore.root
        *above, name = path.strip("/").split("/")
        for directory in above:
            state = state.enter(directory)
        lines = self.ignore_lines
        return [lines[index] for index in state.verdict(name)[1]]

    def survey(self, reads: "Uses | None" = None) -> Survey:
        """Walk all files; with `reads` each tells whether a step may use it, else all that are not left out are used.

        Raises ContextError when the directory cannot be listed.
        """
        footprint = Footprint(None if reads is None else reads.reads)
        try:
            found = survey(self.root, self._ignore, footprint)
        except OSError as error:
            raise ContextError(f"cannot read the context: {self.root}: {error.strerror}") from error
        return found if reads is None else _with_links(self.root, found)

    def effects(self, survey: Survey) -> list[Effect]:
        """Return what each pattern of the ignore file does to what was surveyed, in the order of `ignore_lines`."""
        return effects(self._ignore, survey.seen)

    def uses(self, build_args: Mapping[str, str | None] | None = None) -> "Uses":
        """Return what COPY, ADD and mounts of all stages of the Dockerfile read of the context.

        Raises DockerfileError for a Dockerfile that cannot be built, NotFoundError when there is none.
        """
        if self.dockerfile is None:
            raise NotFoundError(f"cannot find a Dockerfile in: {self.root}", "name it with `-f FILE`")
        from pybuild.plugin.dockerfiles import read_dockerfile, reads_of

        return reads_of(read_dockerfile(self.dockerfile), build_args or {})

    def built_before(self, seen: Seen) -> bool | None:
        """Tell whether an earlier build has read a file as it is now; None when no build is remembered."""
        memory = self._memory()
        if memory is None:
            return None
        return bool(memory.get((seen.device, seen.inode, seen.size, seen.mtime, seen.ctime)))

    def _memory(self) -> DigestMemory | None:
        import hashlib

        from pybuild.engine.paths import store_root

        if not hasattr(self, "_remembered"):
            name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:32]
            memory = DigestMemory(store_root() / "contexts" / name)
            self._remembered = memory if memory.devices else None
        return self._remembered


def read_ignore_file(directory: str | Path, dockerfile: str | Path | None = None) -> tuple[Path, str | None]:
    """Return the path and the text of the ignore file of a build, whatever it says.

    The text is None where there is none, and the path then that of the file which a build would look for; what is no
    UTF-8 is there as surrogates. Raises NotFoundError and PybuildError.
    """
    root = Path(os.path.realpath(directory))
    if not root.is_dir():
        raise NotFoundError(f"no such directory: {directory}")
    path = find_ignore_file(root, root / "Dockerfile" if dockerfile is None else Path(os.path.abspath(dockerfile)))
    if path is None:
        return root / ".dockerignore", None
    try:
        return path, path.read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise PybuildError(f"cannot read the ignore file: {path}: {error.strerror}") from error


class Uses(NamedTuple):
    """What a Dockerfile reads of its context; `unknown_bases` are images that may have triggers which read more."""

    reads: tuple[Read, ...]
    unknown_bases: tuple[str, ...]


def open_context(
    directory: str | Path, dockerfile: str | Path | None = None, *, ignore_text: str | None = None
) -> Context:
    """Return the context of a build of `directory`, as `pybuild build -f dockerfile directory` has it.

    Without a name it is the file `Dockerfile`, if there is one. `ignore_text` stands in for the ignore file, to see
    what it would do. Raises NotFoundError for what is not there, IgnoreError for an ignore file that is malformed: its
    `line` counts from 1, 0 when it is about the file as a whole.
    """
    root = Path(os.path.realpath(directory))
    if not root.is_dir():
        raise NotFoundError(f"no such directory: {directory}")
    named = root / "Dockerfile" if dockerfile is None else Path(os.path.abspath(dockerfile))
    present = named.is_file()
    if dockerfile is not None and not present:
        raise NotFoundError(f"no such Dockerfile: {dockerfile}")
    file = find_ignore_file(root, named)
    ignore = load_ignore(root, named) if ignore_text is None else IgnoreMatcher.parse(ignore_text)
    return Context(root, named if present else None, file, ignore)


def ignore_pattern(path: str) -> str:
    """Return a line for an ignore file that matches this path and nothing else beside it."""
    text = "".join(f"\\{char}" if char in "*?[\\" else "?" if char in "\r\n" else char for char in path)
    if text[:1] in ("!", "#"):
        text = "\\" + text
    # Space at the ends of a line is not part of a pattern
    if text[:1].isspace():
        text = f"[{text[0]}]{text[1:]}"
    return f"{text[:-1]}[{text[-1]}]" if text[-1:].isspace() else text


def _with_links(root: Path, found: Survey) -> Survey:
    """Return the survey with all used that links lead to which are used: COPY follows those it is given."""
    used = {seen.path for seen in found.seen if seen.used}
    top = os.path.realpath(root)
    targets: set[str] = set()
    for seen in found.seen:
        if seen.kind == "link" and seen.used:
            target = os.path.relpath(os.path.realpath(f"{top}/{seen.path}"), top)
            if target not in used and not target.startswith(".."):
                targets.add(target)
    if not targets:
        return found
    above = {parent for target in targets for parent in _parents(target)}
    marked = [
        seen._replace(used=True)
        if not seen.used and not seen.line and (seen.path in above or not targets.isdisjoint(_parents(seen.path)))
        else seen
        for seen in found.seen
    ]
    return found._replace(seen=marked)


def _parents(path: str) -> list[str]:
    """Return a path and all directories above it, the root "." included."""
    found = [path]
    while "/" in path:
        path = path.rpartition("/")[0]
        found.append(path)
    return [*found, "."]
