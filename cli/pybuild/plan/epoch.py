"""SOURCE_DATE_EPOCH: what its value may be, and the time that an image or a stage stands for."""

from collections.abc import Callable, Sequence

from pybuild.dockerfile.errors import Span
from pybuild.dockerfile.instructions import Add, Arg
from pybuild.dockerfile.parse import Stage
from pybuild.oci.image import ImageConfig
from pybuild.plan.ops import CopyOp, Remote, Step
from pybuild.plan.text import Text

EPOCH, OF_CONTEXT = "SOURCE_DATE_EPOCH", "context"

Moment = Callable[[str | Remote], int]
"""Tells when what is at the address of a named context, or what an ADD fetches, was committed or changed: seconds
since the epoch, 0 for what has no such time."""


def no_time() -> int:
    """Return that a context has no time."""
    return 0


def no_moment(source: str | Remote) -> int:
    """Return that nothing has a time, where nothing may be fetched."""
    return 0


def seconds(text: str) -> int | None:
    """Return the number that a value is, None for a name."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def created(config: ImageConfig) -> int:
    """Return when an image was made, in seconds since the epoch; 0 when its config does not tell."""
    from datetime import datetime

    try:
        return max(int(datetime.fromisoformat(config.created).timestamp()), 0)
    except ValueError:
        return 0


def check_stage(stage: Stage, reference: str, text: Text) -> None:
    """Raise DockerfileError for a stage that is more than one ADD on nothing; `reference` is its FROM, expanded."""
    if reference != "scratch":
        raise text.error(f"stage that {EPOCH} names must be FROM scratch", stage.from_.span, _HINT)
    for instruction in stage.instructions:
        if not isinstance(instruction, Add | Arg):
            raise text.error(f"stage that {EPOCH} names must have nothing but one ADD", instruction.span, _HINT)


def source_of(stage: Stage, steps: Sequence[Step], text: Text) -> tuple[Remote, Span]:
    """Return the one thing that the steps of such a stage fetch, and where; raise DockerfileError if it is not one."""
    added = [instruction.span for instruction in stage.instructions if isinstance(instruction, Add)]
    span = added[-1] if added else stage.from_.span
    copies = [step.op for step in steps if isinstance(step.op, CopyOp)]
    if len(copies) == 1 and len(copies[0].remotes) == 1 and not copies[0].sources and not copies[0].inline:
        return copies[0].remotes[0], span
    raise text.error(f"stage that {EPOCH} names must ADD one URL or git repository", span, _HINT)


_HINT = "its time is that of the one source it fetches; give the seconds for any other"
