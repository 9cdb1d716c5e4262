"""`check`: a parsed Dockerfile and what the build knows become findings."""

from collections.abc import Callable, Collection, Mapping

import msgspec

from pybuild.api.events import Finding
from pybuild.checks import stages, whole
from pybuild.checks.report import Report
from pybuild.dockerfile.directives import Check, parse_check
from pybuild.dockerfile.errors import InvalidValueError
from pybuild.dockerfile.parse import Dockerfile
from pybuild.errors import UsageError
from pybuild.oci.image import ImageConfig
from pybuild.oci.platform import Platform

BUILD_ARG = "BUILDKIT_DOCKERFILE_CHECK"
"""The build argument that stands in for the directive of the file."""


class Ignored(msgspec.Struct, frozen=True):
    """What the ignore file says: its patterns, and whether a path below the root of the context is left out."""

    patterns: tuple[str, ...]
    matches: Callable[[str], bool]


class Facts(msgspec.Struct, frozen=True):
    """What is known besides the file: the machine's platform, and the one that is built for.

    `bases` are configs of images by the name FROM gives them, followed by a blank and the platform where FROM asks
    for another one; one that is not there counts as an image that defines nothing. `only` are indexes of the stages
    that are looked into, None for all.
    """

    host: Platform
    platform: Platform
    target: str = ""
    build_args: Mapping[str, str | None] = {}
    bases: Mapping[str, ImageConfig] = {}
    ignored: Ignored | None = None
    only: Collection[int] | None = None


def settings_of(dockerfile: Dockerfile, build_args: Mapping[str, str | None]) -> Check:
    """Return what the directive asks for, or BUILDKIT_DOCKERFILE_CHECK in its stead; raise UsageError for a bad one."""
    given = build_args.get(BUILD_ARG)
    if given is None:
        return dockerfile.check
    try:
        return parse_check(given)
    except InvalidValueError as error:
        raise UsageError(f"invalid build argument {BUILD_ARG}: {error.message}", error.hint) from error


def check(dockerfile: Dockerfile, settings: Check, facts: Facts) -> list[Finding]:
    """Return what the rules find, in the order of the file. Never raises for what the file says: planning does."""
    report = Report(dockerfile.text, settings)
    for warned in dockerfile.warnings:
        report.add_line(warned.name, warned.message, warned.line, warned.comments)
    whole.look(dockerfile, report)
    stages.look(dockerfile, facts, report)
    return report.findings()
