"""A Dockerfile's text to its findings, as the tests of checks want it."""

from collections.abc import Mapping
from typing import Any

from pybuild.api.events import Finding
from pybuild.checks.check import Facts, Ignored, check, settings_of
from pybuild.context.ignore import IgnoreMatcher, read_patterns
from pybuild.dockerfile.parse import parse
from pybuild.oci.platform import Platform

AMD64 = Platform("linux", "amd64")


def look(text: str, args: Mapping[str, str | None] | None = None, ignore: str = "", **facts: Any) -> list[Finding]:
    """Return all that the rules say of a file, `ignore` being the text of its ignore file."""
    dockerfile = parse(text)
    matcher = IgnoreMatcher.parse(ignore)
    ignored = Ignored(tuple(read_patterns(ignore.encode())), matcher.matches) if matcher else None
    given = args or {}
    return check(
        dockerfile,
        settings_of(dockerfile, given),
        Facts(AMD64, facts.pop("platform", AMD64), build_args=given, ignored=ignored, **facts),
    )


def told(
    text: str, args: Mapping[str, str | None] | None = None, ignore: str = "", **facts: Any
) -> list[tuple[int, str]]:
    """Return line and rule of each finding."""
    return [(finding.line, finding.rule) for finding in look(text, args, ignore, **facts)]
