"""Build checks for plugins, by whichever door the engine is reached."""

import os
from collections.abc import Mapping
from pathlib import Path

from pybuild.api.events import Checked, Failed
from pybuild.api.request import BuildRequest
from pybuild.errors import NotFoundError, PybuildError
from pybuild.plugin.findings import LintRule


def check_dockerfile(
    dockerfile: str | Path,
    context: str | Path = "",
    *,
    text: str | None = None,
    build_args: Mapping[str, str | None] | None = None,
    target: str = "",
) -> Checked:
    """Return what the build checks, and a build itself, have to say against a Dockerfile. Nothing is built.

    `context` is the directory it builds from, that of the file by default; with `text` the file is not read. Base
    images that are not here count as empty. Raises PybuildError when there is nothing to look at.
    """
    from contextlib import closing

    from pybuild.client import connect

    path = os.path.abspath(dockerfile)
    root = os.path.realpath(context or os.path.dirname(path))
    if not os.path.isdir(root):
        raise NotFoundError(f"no such directory: {root}")
    if text is None and not os.path.isfile(path):
        raise NotFoundError(f"no such Dockerfile: {dockerfile}")
    request = BuildRequest(
        context=root,
        dockerfile="" if text is not None else path,
        dockerfile_text=text,
        build_args=dict(build_args or {}),
        target=target,
        call="check",
    )
    with connect() as backend, closing(backend.build(request, None)) as events:
        for event in events:
            if isinstance(event, Checked):
                return event
            if isinstance(event, Failed):
                raise PybuildError(event.failure.message, event.failure.hint)
    raise PybuildError("the check ended without a result")


def build_check_rules() -> dict[str, LintRule]:
    """Return the rules of the build checks by name."""
    from pybuild.checks.rules import RULES

    return {name: LintRule(name, rule.about, url=rule.url) for name, rule in RULES.items()}
