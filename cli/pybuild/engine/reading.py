"""What a build reads of its contexts, told to who waits for that to change."""

from collections.abc import Iterable

from pybuild.api.events import Read, Reads
from pybuild.plan.ops import Base, BindMount, CacheMount, CopyOp, FromContext, FromNamed, MountSource, Plan, RunOp
from pybuild.tree.copy import Selected


def planned(plan: Plan) -> Reads:
    """Return what the steps of a plan name of the context, and of named ones."""
    reads = [Read("", context=stage.base.name) for stage in plan.stages if isinstance(stage.base, FromNamed)]
    for step in (step for stage in plan.stages for step in stage.steps):
        match step.op:
            case CopyOp(source=FromContext() | FromNamed()) as op:
                name = context_of(op.source) or ""
                reads += (Read(source, op.parents, op.excludes, name) for source in op.sources)
            case RunOp() as op:
                reads += (
                    Read(mount.path, context=context)
                    for mount in op.mounts
                    if isinstance(mount, BindMount | CacheMount) and (context := context_of(mount.source)) is not None
                )
    return Reads(tuple(dict.fromkeys(reads)))


def context_of(source: MountSource | Base | None) -> str | None:
    """Return the context that a source is, as `Read` has it; None for stages and images."""
    match source:
        case FromContext():
            return ""
        case FromNamed(name=name):
            return name
        case _:
            return None


def found(selections: Iterable[Selected], context: str) -> Reads:
    """Return where the links in what a step named of a context have led."""
    return Reads(
        tuple(Read(_escaped(selected.root), context=context) for selected in selections if selected.content is None)
    )


def _escaped(path: bytes) -> str:
    """Return a path as a pattern that matches nothing else."""
    text = path.decode(errors="surrogateescape")
    # In classes: without any wildcard a backslash before one would be part of the name
    classes = {"*": "[*]", "?": "[?]", "[": "[[]", "\\": r"[\\]"}
    return "".join(classes.get(char, char) for char in text)
