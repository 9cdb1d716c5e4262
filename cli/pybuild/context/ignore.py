"""Docker's ignore files: reading them, and deciding which paths of a context they leave out.

Rules (Dockerfile reference, ".dockerignore file"; patterns in pattern.py): lines apply in order, `!` brings
back, the last line that matches a path or a directory above it decides. As in every builder that walks the
context, a line is only asked when it could change what the lines before it said, and a directory hands down
just the lines that were asked and matched. So `!src` does not protect `src/x` from a line above it that hits
`src/x` alone, because `src` itself was never left out.
"""

import posixpath
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path

from pybuild.context.errors import ContextError, IgnoreError
from pybuild.context.pattern import Automaton, NameIndex, PatternError, State, Token, Wild, literal, split, tokenize

MAX_PATTERNS = 10_000
MAX_LINE = 64 * 1024  # bytes; Docker's reader stops here too
MAX_FILE = 4 << 20  # bytes
MAX_RUNNING = 200_000  # tokens of patterns that hashing cannot find, so that they cost time for each path

# What Go calls space (unicode.IsSpace); str.strip() alone would take U+001C to U+001F too
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def read_patterns(data: bytes) -> list[str]:
    """Return the patterns of an ignore file: no comments, no blank lines, paths cleaned and relative.

    Bytes that are no UTF-8 are kept as surrogates. Raises IgnoreError when the file is beyond its limits.
    """
    return [pattern for _, pattern in _read_lines(data)]


def _read_lines(data: bytes) -> list[tuple[int, str]]:
    if len(data) > MAX_FILE:
        raise IgnoreError(f"ignore file larger than {MAX_FILE} bytes")
    found: list[tuple[int, str]] = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if len(raw) > MAX_LINE:
            raise IgnoreError(f"line longer than {MAX_LINE} bytes in ignore file: line {number}", line=number)
        if raw.startswith(b"#"):
            continue
        pattern = raw.decode(errors="surrogateescape").strip(_SPACE)
        if not pattern:
            continue
        negation = "!" if pattern.startswith("!") else ""
        pattern = pattern[len(negation) :].strip(_SPACE)
        if pattern:
            pattern = _clean(pattern)
            if len(pattern) > 1 and pattern.startswith("/"):
                pattern = pattern[1:]
        found.append((number, negation + pattern))
    return found


def _clean(path: str) -> str:
    """Go's path.Clean; unlike POSIX, two leading slashes are one."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


class DirState:
    """What the patterns say of one directory, and so of the names in it. Made by IgnoreMatcher.

    `excluded` tells whether the directory itself is left out.
    """

    __slots__ = ("_folds", "_indexes", "_matcher", "_whole", "excluded", "folder", "matched", "prefix", "quiet")

    def __init__(
        self,
        matcher: "IgnoreMatcher",
        prefix: str,
        matched: tuple[int, ...],
        excluded: bool,
        folder: State,
        whole: State,
    ) -> None:
        self._matcher = matcher
        self.prefix = prefix
        self.matched = matched
        self.excluded = excluded
        self.folder = folder
        self._whole = whole
        self._indexes = matcher.indexes(prefix, folder)
        self.quiet = not self._indexes and not whole.bits
        """No pattern can match a name in here: all share the fate of the directory."""
        self._folds: dict[tuple[int, ...], tuple[bool, tuple[int, ...]]] = {}

    def excludes(self, name: str) -> bool:
        """Is `name` in this directory left out, taken by itself?"""
        hits = self._hits(name)
        return self._fold(hits)[0] if hits else self.excluded

    def verdict(self, name: str) -> tuple[bool, tuple[int, ...]]:
        """Return whether `name` in this directory is left out, and the patterns that were asked and matched.

        They are indexes into the matcher's; the last one has decided.
        """
        hits = self._hits(name)
        return self._fold(hits) if hits else (self.excluded, self.matched)

    def own_matches(self, name: str) -> tuple[int, ...]:
        """Return the patterns that match `name` in this directory by themselves, asked or not, ascending."""
        return tuple(sorted(self._hits(name)))

    def enter(self, name: str) -> "DirState":
        """Return the state of directory `name` in this one."""
        hits = self._hits(name)
        excluded, matched = self._fold(hits) if hits else (self.excluded, self.matched)
        matcher = self._matcher
        step = name + "/"
        return DirState(
            matcher,
            self.prefix + step,
            matched,
            excluded,
            matcher.folders.run(self.folder, step),
            matcher.wholes.run(self._whole, step),
        )

    def may_reinclude(self) -> bool:
        """May a `!` pattern match something below? Never wrongly False."""
        return self._matcher.negation_below(self.prefix, self.folder, self._whole)

    def may_match(self) -> bool:
        """May any pattern match something below by itself? Never wrongly False."""
        return self._matcher.match_below(self.prefix, self.folder, self._whole)

    def _hits(self, name: str) -> tuple[int, ...]:
        if self.quiet:
            return ()
        found: tuple[int, ...] = ()
        for index in self._indexes:
            hits = index.hits(name)
            if hits:
                found = found + hits if found else hits
        if self._whole.bits:
            wholes = self._matcher.wholes
            found += wholes.hits(wholes.run(self._whole, name))
        return found

    def _fold(self, hits: tuple[int, ...]) -> tuple[bool, tuple[int, ...]]:
        """Return whether a path with these own matches is left out, and the lines it hands down."""
        known = self._folds.get(hits)
        if known is None:
            inherited = set(self.matched)
            negated = self._matcher.negated
            excluded = False
            matched: list[int] = []
            for number in sorted(inherited.union(hits)):
                if number in inherited or negated[number] == excluded:
                    matched.append(number)
                    excluded = not negated[number]
            known = (excluded, tuple(matched))
            if len(self._folds) < 4096:
                self._folds[hits] = known
        return known


class IgnoreMatcher:
    """The patterns of one ignore file. Paths are relative, "/"-separated, invalid UTF-8 as surrogates.

    Time per path grows with the path, not with how the patterns look; patterns without a leading `**` or a
    wildcard in a directory cost nothing outside their directory.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raise IgnoreError for a malformed pattern or more than MAX_PATTERNS of them."""
        self._build(list(enumerate(patterns, 1)), "pattern")

    @classmethod
    def parse(cls, data: bytes | str) -> "IgnoreMatcher":
        """Return the matcher for the content of an ignore file; raise IgnoreError naming the line."""
        if isinstance(data, str):
            data = data.encode(errors="surrogateescape")
        matcher = cls.__new__(cls)
        matcher._build(_read_lines(data), "line")
        return matcher

    def _build(self, lines: Sequence[tuple[int, str]], what: str) -> None:
        if len(lines) > MAX_PATTERNS:
            raise IgnoreError(f"more than {MAX_PATTERNS} ignore patterns: {len(lines)}")
        self.negated: list[bool] = []
        self.patterns: list[str] = []
        self.lines: list[int] = []
        by_folder: dict[str, list[tuple[Sequence[Token], int]]] = {}
        anywhere: list[tuple[Sequence[Token], int]] = []
        folders: list[tuple[Sequence[Token], int]] = []
        wholes: list[tuple[Sequence[Token], int]] = []
        self._folder_names: dict[int, Sequence[Token]] = {}
        self._reincludes_anywhere = False
        self._has_negation = leaving_out = False
        reincluding: set[str] = set()
        for line, text in lines:
            pattern = text.strip(_SPACE)
            if not pattern:
                continue
            pattern = _clean(pattern)
            negated = pattern.startswith("!")
            if len(pattern) > MAX_LINE:
                raise IgnoreError(f"ignore pattern longer than {MAX_LINE} characters: {what} {line}", line=line)
            try:
                if pattern == "!":
                    raise PatternError("nothing follows the !")
                tokens = tokenize(pattern[negated:])
            except PatternError as error:
                shown = text.encode(errors="replace").decode()
                raise IgnoreError(
                    f"malformed ignore pattern at {what} {line}: {error}: `{shown[:200]}`", line=line, pattern=text
                ) from error
            number = len(self.negated)
            self.negated.append(negated)
            self.patterns.append(pattern)
            self.lines.append(line)
            leaving_out |= not negated
            if not leaving_out:
                continue  # nothing is left out yet, so there is nothing to bring back
            self._has_negation |= negated
            halves = split(tokens)
            if halves is None:
                wholes.append((tokens, number))
                continue
            folder = literal(halves.folder)
            if folder is not None:
                by_folder.setdefault(folder, []).append((halves.name, number))
                if negated:
                    reincluding.add(folder)
            elif halves.folder == (Wild.GLOBSTAR,):
                anywhere.append((halves.name, number))
                self._reincludes_anywhere |= negated
            else:
                folders.append((halves.folder, number))
                self._folder_names[number] = halves.name
        self._by_folder = {folder: NameIndex(rules) for folder, rules in by_folder.items()}
        self._anywhere = (NameIndex(anywhere),) if anywhere else ()
        running = sum(index.running for index in (*self._by_folder.values(), *self._anywhere))
        if running + sum(len(tokens) for tokens, _ in (*folders, *wholes)) > MAX_RUNNING:
            raise IgnoreError(f"ignore patterns with more than {MAX_RUNNING} characters and wildcards in all")
        self.folders = Automaton(folders)
        self.wholes = Automaton(wholes)
        reincluders = {number for number, negated in enumerate(self.negated) if negated}
        self._folders_reincluding = self.folders.mask_of(reincluders)
        self._wholes_reincluding = self.wholes.mask_of(reincluders)
        self._reincluding = sorted(reincluding)
        self._folders_named = sorted(by_folder)
        self._folder_indexes: dict[tuple[int, ...], NameIndex] = {}
        self.root = DirState(self, "", (), False, self.folders.start, self.wholes.start)
        """The state of the context root, which is never left out."""

    def __bool__(self) -> bool:
        return bool(self.negated)

    def matches(self, path: str) -> bool:
        """Is `path` left out, by itself or by a directory above it? The root "." never is."""
        if path in ("", "."):
            return False
        *above, name = (path.rstrip("/") or "").split("/")
        state = self.root
        for directory in above:
            state = state.enter(directory)
        return state.excludes(name)

    def decide(self, path: str, parent_state: DirState | None = None) -> tuple[bool, DirState]:
        """Return whether `path` is left out, and the state to pass along for what is in it.

        `parent_state` is what was returned for the directory that holds `path`; None works it out.
        """
        if parent_state is None:
            parent_state = self._state_of(path.rpartition("/")[0])
        state = parent_state.enter(path.rpartition("/")[2])
        return state.excluded, state

    def _state_of(self, directory: str) -> DirState:
        state = self.root
        for name in directory.split("/") if directory else ():
            state = state.enter(name)
        return state

    def indexes(self, prefix: str, folder: State) -> tuple[NameIndex, ...]:
        """Return the indexes of the patterns that may match a name in directory `prefix` (with its slash)."""
        found = self._anywhere
        here = self._by_folder.get(prefix)
        if here is not None:
            found = (*found, here)
        active = self.folders.hits(folder)
        if active:
            index = self._folder_indexes.get(active)
            if index is None:
                index = NameIndex([(self._folder_names[number], number) for number in active])
                if len(self._folder_indexes) < 1024:
                    self._folder_indexes[active] = index
            found = (*found, index)
        return found

    def negation_below(self, prefix: str, folder: State, whole: State) -> bool:
        """May a `!` pattern match below directory `prefix`, where the automata stand at these states?"""
        if not self._has_negation:
            return False
        if self._reincludes_anywhere:
            return True
        if folder.bits & self._folders_reincluding or whole.bits & self._wholes_reincluding:
            return True
        return _has_prefix(self._reincluding, prefix)

    def match_below(self, prefix: str, folder: State, whole: State) -> bool:
        """May a pattern match below directory `prefix`, where the automata stand at these states?"""
        return bool(self._anywhere or folder.bits or whole.bits) or _has_prefix(self._folders_named, prefix)


def _has_prefix(ordered: Sequence[str], prefix: str) -> bool:
    at = bisect_left(ordered, prefix)
    return at < len(ordered) and ordered[at].startswith(prefix)


def load_ignore(context_root: Path, dockerfile_path: Path | None) -> IgnoreMatcher:
    """Return the ignore rules of a build: `DOCKERFILE_PATH.dockerignore`, else `.dockerignore` in the root.

    The first found wins alone; none gives a matcher without patterns. `dockerfile_path` is a host path,
    None for a Dockerfile that is no file here. A link is followed as long as it stays in the context (or,
    for a Dockerfile elsewhere, in that directory). Raises IgnoreError, and ContextError when the file
    cannot be read.
    """
    for root, name in _ignore_places(context_root, dockerfile_path):
        matcher = _load(root, name)
        if matcher is not None:
            return matcher
    return IgnoreMatcher()


def find_ignore_file(context_root: Path, dockerfile_path: Path | None) -> Path | None:
    """Return the path of the file that `load_ignore` reads, None when there is none."""
    import os

    for root, name in _ignore_places(context_root, dockerfile_path):
        path = root / os.fsdecode(name)
        if os.path.lexists(path):
            return path
    return None


def ignore_file_names(context_root: Path, dockerfile_path: Path | None) -> list[bytes]:
    """Return the paths below the root at which `load_ignore` would look, in that order."""
    return [name for root, name in _ignore_places(context_root, dockerfile_path) if root == context_root]


def _ignore_places(context_root: Path, dockerfile_path: Path | None) -> list[tuple[Path, bytes]]:
    import os

    places: list[tuple[Path, bytes]] = []
    if dockerfile_path is not None:
        # Lexically, so that a directory in between that is a link is judged when it is opened
        beside = os.fsencode(os.path.abspath(dockerfile_path)) + b".dockerignore"
        root = os.fsencode(os.path.abspath(context_root)).rstrip(b"/") + b"/"
        if beside.startswith(root):
            places.append((context_root, beside[len(root) :]))
        else:
            places.append((dockerfile_path.parent, os.path.basename(beside)))
    places.append((context_root, b".dockerignore"))
    return places


def _load(root: Path, name: bytes) -> IgnoreMatcher | None:
    from pybuild.context.beneath import read_beneath

    try:
        data = read_beneath(root, name, limit=MAX_FILE)
    except ContextError as error:
        if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            return None
        raise
    try:
        return IgnoreMatcher.parse(data)
    except IgnoreError as error:
        shown = name.decode(errors="replace")
        raise IgnoreError(
            f"{error.message} in `{shown}`", line=error.line, pattern=error.pattern, hint=error.hint
        ) from error
