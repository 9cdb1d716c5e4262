"""Rules about the file as it is written, all of its stages together."""

from collections.abc import Iterator, Sequence

from pybuild.checks.report import Report
from pybuild.dockerfile.instructions import Arg, Located, Maintainer
from pybuild.dockerfile.parse import Dockerfile, Stage

RESERVED = ("context", "scratch")


def look(dockerfile: Dockerfile, report: Report) -> None:
    """Report what is wrong with the file whatever it is built with."""
    _casing(dockerfile, report)
    names: set[str] = set()
    for arg in dockerfile.args:
        _description(arg, "ARG", [name for name, _ in arg.args], report)
    for stage in dockerfile.stages:
        _from(stage, names, report)
        for instruction in stage.instructions:
            if isinstance(instruction, Maintainer):
                message = "Maintainer instruction is deprecated in favor of using label"
                report.add("MaintainerDeprecated", instruction, message, instruction.keyword)
            elif isinstance(instruction, Arg):
                _description(instruction, "ARG", [name for name, _ in instruction.args], report)


def _casing(dockerfile: Dockerfile, report: Report) -> None:
    """Report instructions in another case than the majority; ARGs before the first FROM neither count nor matter."""
    words = [instruction.keyword for instruction in _instructions(dockerfile)]
    lower = sum(word == word.lower() for word in words)
    upper = sum(word == word.upper() for word in words)
    kind = "lowercase" if lower > upper else "uppercase"
    for instruction in _instructions(dockerfile):
        word = instruction.keyword
        if word != (word.lower() if lower > upper else word.upper()):
            message = f"Command '{word}' should match the case of the command majority ({kind})"
            report.add("ConsistentInstructionCasing", instruction, message, word)


def _instructions(dockerfile: Dockerfile) -> Iterator[Located]:
    for stage in dockerfile.stages:
        yield stage.from_
        yield from stage.instructions


def _from(stage: Stage, names: set[str], report: Report) -> None:
    from_ = stage.from_
    if from_.name is None or stage.name is None:
        return
    if from_.name != stage.name:
        report.add("StageNameCasing", from_, f"Stage name '{from_.name}' should be lowercase", from_.name, last=True)
    keyword, as_ = from_.keyword, from_.original.split()[-2]
    # One that is neither is told of as such, and no word can match it
    if keyword in (keyword.lower(), keyword.upper()):
        wanted = as_.lower() if keyword == keyword.lower() else as_.upper()
        if as_ != wanted:
            report.add("FromAsCasing", from_, f"'{as_}' and '{keyword}' keywords' casing do not match", as_)
    if stage.name in RESERVED:
        message = f'Stage name should not use the same name as reserved stage "{stage.name}"'
        report.add("ReservedStageName", from_, message, from_.name, last=True)
    if stage.name in names:
        message = f'Duplicate stage name "{stage.name}", stage names should be unique'
        report.add("DuplicateStageName", from_, message, from_.name, last=True)
    names.add(stage.name)
    _description(from_, "FROM", [stage.name], report)


def _description(at: Located, word: str, names: Sequence[str], report: Report) -> None:
    comments = [comment for comment in at.comments if not comment.lower().startswith("check=")]
    # A bare # ends a description
    if not comments or not comments[-1] or comments[-1].split()[0] in names:
        return
    shown = names[0] if len(names) == 1 else "<arg_key>"
    message = f"Comment for {word} should follow the format: `# {shown} <description>`"
    report.add("InvalidDefinitionDescription", at, message, shown)
