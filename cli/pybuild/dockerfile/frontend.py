"""Which frontend a file asks for: the language of this one is built in, programs for others are not fetched."""

from pybuild.dockerfile.directives import detect_syntax, is_builtin_syntax
from pybuild.dockerfile.errors import DockerfileError, Span, shown
from pybuild.errors import UsageError

ARGUMENT = "BUILDKIT_SYNTAX"
OVERRIDE = f"`--build-arg {ARGUMENT}=docker/dockerfile:1`"


def check_frontend(text: str, name: str, override: str = "") -> None:
    """Raise DockerfileError where `# syntax=` names another frontend, UsageError when `override` does.

    `override` is the build argument BUILDKIT_SYNTAX, which wins over the file.
    """
    if override:
        reference = override.split(" ", 1)[0]
        if not is_builtin_syntax(reference):
            raise UsageError(f"unknown frontend in {ARGUMENT}: {shown(reference)}", f"known is {OVERRIDE}")
        return
    found = detect_syntax(text)
    if found is None or is_builtin_syntax(found[0]):
        return
    reference, number = found
    source = text.split("\n", number)[number - 1].rstrip("\r")
    if reference.rpartition("@")[0].endswith("/dockerfile") or "/dockerfile:" in reference:
        hint = f"if it is a copy of docker/dockerfile, which is built in, build with {OVERRIDE}"
    else:
        hint = f"if the file is a plain Dockerfile, take the line out, or build with {OVERRIDE}"
    span = Span(number, number, 1, max(len(source), 1))
    raise DockerfileError(
        f"unknown frontend, only docker/dockerfile is built in: {shown(reference)}",
        hint,
        file=name,
        span=span,
        source=source,
    )
