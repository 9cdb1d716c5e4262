"""Nodes become instructions: counts, flags and values are checked, one function for each name in READERS."""

import re
from collections.abc import Callable
from typing import TypedDict, TypeVar

from pybuild.dockerfile.durations import parse_duration
from pybuild.dockerfile.errors import DockerfileError, InvalidValueError, Span, did_you_mean, shown
from pybuild.dockerfile.flags import FlagValues, check_flags
from pybuild.dockerfile.heredocs import Heredoc, parse_heredoc_word
from pybuild.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    ShellForm,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from pybuild.dockerfile.mounts import parse_mount
from pybuild.dockerfile.nodes import Node

MIN_DURATION = 1_000_000
"""A health check cannot be timed finer than a millisecond."""

NETWORKS = ("default", "none", "host")
SECURITIES = ("sandbox", "insecure")

_T = TypeVar("_T")

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")


def read_instruction(node: Node) -> Instruction:
    """Return the instruction that a node means; raise DockerfileError at the part that is wrong."""

    def fail(message: str, span: Span, hint: str) -> DockerfileError:
        return node.error(message, span, hint)

    return READERS[node.name](node, check_flags(node.name, node.flags, fail))


class _Place(TypedDict):
    """The fields that every instruction has."""

    span: Span
    original: str
    comments: tuple[str, ...]


def _place(node: Node) -> _Place:
    return {"span": node.span, "original": node.original, "comments": node.line.comments}


def _exactly_one(node: Node) -> str:
    if len(node.tokens) != 1:
        raise node.error(f"{node.name.upper()} requires exactly one argument")
    return node.tokens[0].text


def _at_least(node: Node, count: int) -> tuple[str, ...]:
    if len(node.tokens) < count:
        words = "one argument" if count == 1 else "two arguments"
        raise node.error(f"{node.name.upper()} requires at least {words}")
    return node.args


def _command(node: Node) -> Command:
    if node.is_json:
        return ExecForm(node.args)
    return ShellForm(_at_least(node, 1)[0])


def _from(node: Node, flags: FlagValues) -> From:
    """`FROM [--platform=P] reference [AS name]`"""
    if len(node.tokens) not in (1, 3) or (len(node.tokens) == 3 and node.args[1].lower() != "as"):
        hint = "write `FROM image` or `FROM image AS name`"
        raise node.error("FROM requires either one or three arguments", hint=hint)
    name = None
    if len(node.tokens) == 3:
        name = node.args[2]
        if not _STAGE_NAME.fullmatch(name.lower()):
            message = f"invalid name for build stage: {shown(name)!r}"
            hint = "a name begins with a letter and has letters, digits, `-`, `_` and `.`"
            raise node.error_at(node.tokens[2], message, hint)
    return From(
        node.args[0],
        name,
        flags.texts.get("platform"),
        **_place(node),
    )


def _run(node: Node, flags: FlagValues) -> Run:
    command = _command(node)
    lone = False
    if isinstance(command, ShellForm) and node.heredocs:
        word = parse_heredoc_word(command.text) if len(node.heredocs) == 1 else None
        lone = word is not None
        if not lone:
            command = ShellForm(command.text + "".join([heredoc.text for heredoc in node.heredocs]))
    mounts = flags.lists.get("mount", ())
    for mount in mounts:
        # With variables only the plan can tell what a mount says
        if "$" not in mount:
            _checked(node, flags, "mount", parse_mount, mount)
    _one_of(node, flags, "network", NETWORKS)
    _one_of(node, flags, "security", SECURITIES)
    return Run(
        command,
        heredocs=node.heredocs,
        is_lone_heredoc=lone,
        mounts=mounts,
        network=flags.texts.get("network"),
        security=flags.texts.get("security"),
        devices=flags.lists.get("device", ()),
        **_place(node),
    )


def _one_of(node: Node, flags: FlagValues, flag: str, values: tuple[str, ...]) -> None:
    value = flags.texts.get(flag)
    if value is not None and value not in values:
        message = f"unsupported value for --{flag}: {shown(value) or '<empty>'}{did_you_mean(value, values)}"
        raise node.error(message, flags.spans[flag], "write one of " + ", ".join(values))


def _checked(node: Node, flags: FlagValues, flag: str, check: Callable[[str], _T], value: str) -> _T:
    try:
        return check(value)
    except InvalidValueError as error:
        raise node.error(error.message, flags.spans[flag], error.hint) from error


def _sources(node: Node) -> tuple[tuple[str | Heredoc, ...], str]:
    """Return the sources and the destination of COPY and ADD."""
    _at_least(node, 2)
    last = node.tokens[-1]
    if last.heredoc is not None:
        raise node.error_at(last, f"{node.name.upper()} cannot accept a heredoc as a destination")
    sources = [token.text if token.heredoc is None else node.heredocs[token.heredoc] for token in node.tokens[:-1]]
    return tuple(sources), last.text


def _copy(node: Node, flags: FlagValues) -> Copy:
    sources, dest = _sources(node)
    return Copy(
        sources,
        dest,
        from_=flags.texts.get("from") or None,
        chown=flags.texts.get("chown"),
        chmod=flags.texts.get("chmod"),
        link=flags.bools.get("link", False),
        parents=flags.bools.get("parents", False),
        excludes=flags.lists.get("exclude", ()),
        **_place(node),
    )


def _add(node: Node, flags: FlagValues) -> Add:
    sources, dest = _sources(node)
    return Add(
        sources,
        dest,
        chown=flags.texts.get("chown"),
        chmod=flags.texts.get("chmod"),
        link=flags.bools.get("link", False),
        keep_git_dir=flags.bools.get("keep-git-dir"),
        checksum=flags.texts.get("checksum"),
        unpack=flags.bools.get("unpack"),
        excludes=flags.lists.get("exclude", ()),
        **_place(node),
    )


def _pairs(node: Node) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Return the pairs of ENV and LABEL, and whether they are in the form without `=`."""
    _at_least(node, 1)
    names, values, separators = node.tokens[::3], node.tokens[1::3], node.tokens[2::3]
    for name in names:
        if not name.text:
            raise node.error_at(name, f"{node.name.upper()} names can not be blank")
    pairs = tuple([(name.text, value.text) for name, value in zip(names, values, strict=True)])
    return pairs, not separators[0].text


def _env(node: Node, flags: FlagValues) -> Env:
    pairs, legacy = _pairs(node)
    return Env(pairs, legacy, **_place(node))


def _label(node: Node, flags: FlagValues) -> Label:
    pairs, legacy = _pairs(node)
    return Label(pairs, legacy, **_place(node))


def _arg(node: Node, flags: FlagValues) -> Arg:
    _at_least(node, 1)
    args: list[tuple[str, str | None]] = []
    for token in node.tokens:
        name, equals, default = token.text.partition("=")
        if not name:
            raise node.error_at(token, "ARG names can not be blank")
        args.append((name, default if equals else None))
    return Arg(tuple(args), **_place(node))


def _expose(node: Node, flags: FlagValues) -> Expose:
    return Expose(_at_least(node, 1), **_place(node))


def _volume(node: Node, flags: FlagValues) -> Volume:
    paths = _at_least(node, 1)
    for token in node.tokens:
        if not token.text.strip():
            raise node.error_at(token, "VOLUME specified can not be an empty string")
    return Volume(paths, **_place(node))


def _user(node: Node, flags: FlagValues) -> User:
    return User(_exactly_one(node), **_place(node))


def _workdir(node: Node, flags: FlagValues) -> Workdir:
    return Workdir(_exactly_one(node), **_place(node))


def _stopsignal(node: Node, flags: FlagValues) -> Stopsignal:
    return Stopsignal(_exactly_one(node), **_place(node))


def _maintainer(node: Node, flags: FlagValues) -> Maintainer:
    return Maintainer(_exactly_one(node), **_place(node))


def _entrypoint(node: Node, flags: FlagValues) -> Entrypoint:
    return Entrypoint(_command(node), **_place(node))


def _cmd(node: Node, flags: FlagValues) -> Cmd:
    return Cmd(_command(node), **_place(node))


def _shell(node: Node, flags: FlagValues) -> Shell:
    if node.tokens and not node.is_json:
        raise node.error_at(
            node.tokens[0], "SHELL requires the arguments to be in JSON form", 'write `SHELL ["/bin/bash", "-c"]`'
        )
    return Shell(_at_least(node, 1), **_place(node))


def _healthcheck(node: Node, flags: FlagValues) -> Healthcheck:
    kind, *rest = _at_least(node, 1)
    match kind.upper():
        case "NONE":
            if rest or node.is_json:
                raise node.error_at(node.tokens[0], "HEALTHCHECK NONE takes no arguments")
            test: tuple[str, ...] = ("NONE",)
        case "CMD":
            if not rest:
                raise node.error_at(node.tokens[0], "missing command after HEALTHCHECK CMD")
            test = ("CMD", *rest) if node.is_json else ("CMD-SHELL", rest[0])
        case _:
            message = f"unknown type {shown(kind)!r} in HEALTHCHECK (try CMD)"
            raise node.error_at(node.tokens[0], message)
    return Healthcheck(
        test,
        interval=_duration(node, flags, "interval"),
        timeout=_duration(node, flags, "timeout"),
        start_period=_duration(node, flags, "start-period"),
        start_interval=_duration(node, flags, "start-interval"),
        retries=_retries(node, flags),
        **_place(node),
    )


def _duration(node: Node, flags: FlagValues, flag: str) -> int:
    text = flags.texts.get(flag)
    if not text:
        return 0
    nanoseconds = _checked(node, flags, flag, parse_duration, text)
    if nanoseconds != 0 and nanoseconds < MIN_DURATION:
        raise node.error(f"--{flag} cannot be less than 1ms: {shown(text)}", flags.spans[flag])
    return nanoseconds


def _retries(node: Node, flags: FlagValues) -> int:
    text = flags.texts.get("retries")
    if not text:
        return 0
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
        raise node.error(f"--retries must be a whole number of at least 0, not: {shown(text)}", flags.spans["retries"])
    return int(digits)


def _onbuild(node: Node, flags: FlagValues) -> Onbuild:
    if node.child is None:
        raise node.error("ONBUILD requires at least one argument")
    check_trigger(node.child)
    text = node.text + "".join([heredoc.text for heredoc in node.heredocs])
    instruction = read_instruction(node.child)
    return Onbuild(text, instruction, **_place(node))


def check_trigger(node: Node) -> None:
    """Raise DockerfileError if the instruction may not be a trigger."""
    if node.name == "onbuild":
        raise node.error("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if node.name in ("from", "maintainer"):
        raise node.error(f"{node.name.upper()} isn't allowed as an ONBUILD trigger")


Reader = Callable[[Node, FlagValues], Instruction]

READERS: dict[str, Reader] = {
    "add": _add,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "from": _from,
    "healthcheck": _healthcheck,
    "label": _label,
    "maintainer": _maintainer,
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": _stopsignal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
"""One function for each instruction."""
