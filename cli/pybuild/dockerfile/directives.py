"""Parser directives: `# name=value` lines at the very top of a file.

directive  = blanks "#" blanks name blanks "=" blanks value blanks
name       = "syntax" | "escape" | "check", in any case; any other name is a comment, and ends the directives
"""

import json

import msgspec

from pybuild.dockerfile.errors import DockerfileError, InvalidValueError, Span, did_you_mean, shown
from pybuild.dockerfile.lines import WHITESPACE

NAMES = frozenset({"syntax", "escape", "check"})
ESCAPES = ("\\", "`")
BUILTIN_SYNTAXES = ("docker/dockerfile", "docker/dockerfile-upstream")


class Directive(msgspec.Struct, frozen=True):
    """One directive, its name folded to lower case."""

    name: str
    value: str
    span: Span


class Check(msgspec.Struct, frozen=True):
    """What a `check` directive asks for: rules left out, experimental rules put in, warnings as errors."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    error: bool = False

    def skips(self, rule: str) -> bool:
        """Is the rule of that name silenced?"""
        return self.skip_all or rule in self.skip


def read_directives(text: str, name: str) -> dict[str, Directive]:
    """Return the directives of a file by name.

    Raises DockerfileError for one given twice and for an escape other than a backslash or a backtick.
    """
    found: dict[str, Directive] = {}
    for number, line in enumerate(_top_lines(text), 1):
        directive = _read_line(line, "#", number)
        if directive is None:
            break
        if directive.name in found:
            message = f"only one {directive.name} parser directive can be used"
            raise DockerfileError(message, file=name, span=directive.span, source=line)
        if directive.name == "escape" and directive.value not in ESCAPES:
            message = f"invalid escape token {shown(directive.value)!r} does not match ` or \\"
            raise DockerfileError(message, file=name, span=directive.span, source=line)
        found[directive.name] = directive
    return found


def detect_syntax(text: str) -> tuple[str, int] | None:
    """Return the frontend that a file of any language names, and on which line.

    Looked for are `# syntax=REF`, `// syntax=REF` and a JSON document with a `syntax` member; a first line
    that begins with `#!` is passed over.
    """
    return _detect("syntax", text, "#") or _detect("syntax", text, "//") or _detect_json(text)


def detect_check(text: str) -> tuple[str, int] | None:
    """Return the text of the `check` directive and its line; a first line that begins with `#!` is passed over."""
    return _detect("check", text, "#")


def is_builtin_syntax(reference: str) -> bool:
    """Is `reference` a version of the frontend that is built in?"""
    bare = reference.partition("@")[0].partition(":")[0]
    return bare.removeprefix("index.").removeprefix("docker.io/") in BUILTIN_SYNTAXES


def parse_check(text: str) -> Check:
    """Return what `skip=A,B;error=true;experimental=all` asks for; raise InvalidValueError if it is nothing known."""
    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error = False
    for part in text.split(";"):
        key, equals, value = (item.strip(WHITESPACE) for item in part.partition("="))
        if not key and not equals:
            continue
        match key.lower():
            case "skip":
                skip = _names(value)
            case "experimental":
                experimental = _names(value)
            case "error" if value.lower() in ("true", "false"):
                error = value.lower() == "true"
            case "error":
                raise InvalidValueError(f"check option error must be true or false, not: {shown(value)}")
            case _:
                known = ("skip", "error", "experimental")
                raise InvalidValueError(f"invalid check option: {shown(key)}{did_you_mean(key, known)}")
    every = frozenset({"all"})
    return Check(skip - every, "all" in skip, experimental - every, "all" in experimental, error)


def _names(value: str) -> frozenset[str]:
    return frozenset(name for item in value.split(",") if (name := item.strip(WHITESPACE)))


def _top_lines(text: str) -> list[str]:
    # Three names, none twice: a fifth line can never be a directive, not even below a `#!` line
    return [line.rstrip("\r") for line in text.split("\n", 5)[:5]]


def _read_line(line: str, comment: str, number: int) -> Directive | None:
    stripped = line.strip(WHITESPACE)
    key, equals, value = stripped.removeprefix(comment).partition("=")
    key, value = key.strip(WHITESPACE).lower(), value.strip(WHITESPACE)
    if not stripped.startswith(comment) or not equals or key not in NAMES or not value:
        return None
    column = len(line) - len(line.lstrip(WHITESPACE)) + 1
    return Directive(key, value, Span(number, number, column, len(stripped)))


def _detect(name: str, text: str, comment: str) -> tuple[str, int] | None:
    lines = _top_lines(text.removeprefix("\ufeff"))
    first = 2 if lines[0].startswith("#!") else 1
    for number, line in enumerate(lines[first - 1 :], first):
        directive = _read_line(line, comment, number)
        if directive is None:
            return None
        if directive.name == name:
            # What follows the first word is free text for other readers
            return directive.value.split(" ", 1)[0], number
    return None


def _detect_json(text: str) -> tuple[str, int] | None:
    text = text.removeprefix("\ufeff")
    first = 1
    if text.startswith("#!"):
        text, first = text.partition("\n")[2], 2
    if not text.lstrip(WHITESPACE).startswith("{"):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    reference = document.get("syntax")
    return (reference.split(" ", 1)[0], first) if isinstance(reference, str) and reference else None
