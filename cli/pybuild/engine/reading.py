"""What a build reads of its context, told to who waits for that to change."""

from collections.abc import Iterable

from pybuild.api.events import Read, Reads
from pybuild.plan.ops import BindMount, CacheMount, CopyOp, FromContext, Plan, RunOp
from pybuild.tree.copy import Selected


def planned(plan: Plan) -> Reads:
    """Return what the steps of a plan name of the context."""
    reads: list[Read] = []
    for step in (step for stage in plan.stages for step in stage.steps):
        match step.op:
            case CopyOp(source=FromContext()) as op:
                reads += (Read(source, op.parents, op.excludes) for source in op.sources)
            case RunOp() as op:
                reads += (
                    Read(mount.path)
                    for mount in op.mounts
                    if isinstance(mount, BindMount | CacheMount) and isinstance(mount.source, FromContext)
                )
    return Reads(tuple(dict.fromkeys(reads)))


def found(selections: Iterable[Selected]) -> Reads:
    """Return where the links in what a step named have led."""
    return Reads(tuple(Read(_escaped(selected.root)) for selected in selections if selected.content is None))


def _escaped(path: bytes) -> str:
    """Return a path as a pattern that matches nothing else."""
    text = path.decode(errors="surrogateescape")
    # In classes: without any wildcard a backslash before one would be part of the name
    classes = {"*": "[*]", "?": "[?]", "[": "[[]", "\\": r"[\\]"}
    return "".join(classes.get(char, char) for char in text)
