"""`parse`: a Dockerfile becomes stages of instructions.

file  = { directive } { ARG } stage { stage }
stage = FROM { instruction other than FROM }
"""

import msgspec

from pybuild.dockerfile.directives import Check, Directive, detect_check, parse_check
from pybuild.dockerfile.errors import DockerfileError, InvalidValueError, Span
from pybuild.dockerfile.frontend import check_frontend
from pybuild.dockerfile.instructions import Arg, From, Instruction
from pybuild.dockerfile.lines import decode
from pybuild.dockerfile.nodes import Warned, read_nodes
from pybuild.dockerfile.read import check_trigger, read_instruction

MAX_STAGES = 1000

TRIGGER = "ONBUILD trigger"
"""What errors name as the file when a base image's trigger is wrong."""


class Stage(msgspec.Struct, frozen=True):
    """A FROM and what follows it; `index` counts from 0, `name` is folded to lower case as lookups need it."""

    index: int
    name: str | None
    from_: From
    instructions: tuple[Instruction, ...]


class Dockerfile(msgspec.Struct, frozen=True):
    """A parsed file: `args` stand before the first FROM, `text` is without byte order mark.

    `warnings` are all there are, whatever `check` says.
    """

    name: str
    text: str
    directives: dict[str, Directive]
    escape: str
    check: Check
    args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[Warned, ...]


def parse(text: str | bytes, *, name: str = "Dockerfile", frontend: str = "") -> Dockerfile:
    """Return the parsed file; `name` is only for errors, `frontend` wins over the file's `# syntax=`.

    Raises DockerfileError at the first thing that is wrong: encoding, limits, a frontend that is not built in, unknown
    instructions, flags, argument counts, values that no variable can change, heredocs without an end, no stage at all.
    Raises UsageError for a `frontend` that is not built in.
    """
    decoded = decode(text, name)
    check_frontend(decoded, name, frontend)
    check = _read_check(decoded, name)
    raw = read_nodes(decoded, name)
    args: list[Arg] = []
    begun: list[tuple[From, list[Instruction]]] = []
    for node in raw.nodes:
        instruction = read_instruction(node)
        if isinstance(instruction, From):
            if len(begun) == MAX_STAGES:
                raise node.error(f"file has more than {MAX_STAGES} stages")
            begun.append((instruction, []))
        elif begun:
            begun[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            args.append(instruction)
        else:
            raise node.error("no build stage in current context", hint="only ARG may stand before the first FROM")
    if not begun:
        last = raw.nodes[-1]
        raise last.error("dockerfile contains no stages to build", hint="add a FROM")
    stages = [
        Stage(index, from_.name.lower() if from_.name else None, from_, tuple(instructions))
        for index, (from_, instructions) in enumerate(begun)
    ]
    return Dockerfile(
        name=name,
        text=decoded,
        directives=raw.directives,
        escape=raw.escape,
        check=check,
        args=tuple(args),
        stages=tuple(stages),
        warnings=raw.warnings,
    )


def parse_onbuild(text: str, escape: str = "\\", *, span: Span | None = None) -> Instruction:
    """Return the instruction of a trigger that a base image stores.

    Its spans count lines of the trigger itself, unless `span` says which place of a file it stands for.
    Raises DockerfileError for what `parse` refuses, for several instructions, and for what no trigger may be.
    """
    raw = read_nodes(decode(text, TRIGGER), TRIGGER, escape=escape)
    node = raw.nodes[0]
    if len(raw.nodes) > 1:
        raise raw.nodes[1].error("a trigger holds one instruction, here is another")
    check_trigger(node)
    instruction = read_instruction(node)
    return instruction if span is None else msgspec.structs.replace(instruction, span=span)


def _read_check(text: str, name: str) -> Check:
    found = detect_check(text)
    if found is None:
        return Check()
    value, line = found
    try:
        return parse_check(value)
    except InvalidValueError as error:
        source = text.split("\n", line)[line - 1].rstrip("\r")
        span = Span(line, line, 1, max(len(source), 1))
        raise DockerfileError(error.message, error.hint, file=name, span=span, source=source) from error
