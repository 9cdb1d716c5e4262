"""Rules that follow a stage's state through its instructions: variables, working directory, shell."""

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pybuild.checks import bases
from pybuild.checks.near import nearest
from pybuild.checks.report import Report
from pybuild.dockerfile.errors import InvalidValueError
from pybuild.dockerfile.heredocs import Heredoc
from pybuild.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Onbuild,
    Run,
    Shell,
    ShellForm,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from pybuild.dockerfile.parse import Dockerfile, Stage, parse_onbuild
from pybuild.dockerfile.ports import has_host_part
from pybuild.dockerfile.words import examine, examine_body, examine_words
from pybuild.errors import PybuildError
from pybuild.oci.image import DEFAULT_PATH, ImageConfig

if TYPE_CHECKING:
    from pybuild.checks.check import Facts

NOT_VARIABLES = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})

_SECRETS = "apikey|auth|credential|credentials|key|password|pword|passwd|secret|token"
_SECRET = re.compile(rf"(?:_|^)(?:{_SECRETS})(?:_|$)", re.IGNORECASE)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@")
_EVERYTHING = ("*", "**", "**/*")


def look(dockerfile: Dockerfile, facts: "Facts", report: Report) -> None:
    """Report what is wrong with the FROM of all stages and inside of those that are looked into."""
    globals_ = bases.look(dockerfile, facts, report)
    walked: dict[int, _Walk] = {}
    for stage in dockerfile.stages:
        name = bases.expanded(stage.from_.reference, globals_, dockerfile.escape)
        index = bases.stage_named(dockerfile, name, stage.index)
        base = None if index is not None else bases.image_of(stage, name, globals_, facts, dockerfile.escape)
        # A stage that is not looked into may still be what another one is built from
        speaks = facts.only is None or stage.index in facts.only
        if base is not None and speaks:
            bases.look_at_platform(stage, name, base, globals_, facts, report, dockerfile.escape)
        walk = _Walk(dockerfile, facts, globals_, report if speaks else None)
        walk.begin(base, walked[index] if index is not None else None)
        walked[stage.index] = walk
        walk.go(stage)


class _Walk:
    """A stage being walked; `report` is None for one of which nothing is told."""

    def __init__(
        self, dockerfile: Dockerfile, facts: "Facts", globals_: Mapping[str, str], report: Report | None
    ) -> None:
        self._escape = dockerfile.escape
        self._facts = facts
        self._globals = globals_
        self._report = report
        self._values: dict[str, str] = {}
        self._declared: set[str] = set()
        self._triggers: list[str] = []
        self._has_shell = False
        self._has_workdir = False
        self._last: dict[type[Instruction], Instruction] = {}

    def begin(self, base: ImageConfig | None, parent: "_Walk | None") -> None:
        """Take over what the stage is built from."""
        if parent is not None:
            self._values, self._declared = dict(parent._values), set(parent._declared)
            self._has_shell, self._has_workdir = parent._has_shell, parent._has_workdir
            self._inherited = list(parent._triggers)
            return
        config = base.config if base is not None else None
        for item in (config.Env or ()) if config is not None else ():
            name, _, value = item.partition("=")
            self._values[name] = value
        self._values.setdefault("PATH", DEFAULT_PATH)
        self._has_shell = bool(config is not None and config.Shell)
        self._inherited = list((config.OnBuild or ()) if config is not None else ())

    def go(self, stage: Stage) -> None:
        """Walk through the triggers of the base and the instructions."""
        for trigger in self._inherited:
            try:
                instruction = parse_onbuild(trigger, self._escape, span=stage.from_.span)
            except PybuildError:
                # Whoever plans the build tells it
                continue
            self._step(instruction)
        for instruction in stage.instructions:
            self._step(instruction)

    def _add(self, rule: str, at: Instruction, message: str, mark: str = "") -> None:
        if self._report is not None:
            self._report.add(rule, at, message, mark)

    def _step(self, instruction: Instruction) -> None:
        match instruction:
            case Copy() | Add():
                self._copy(instruction)
            case Env():
                self._env(instruction)
            case Label():
                self._pairs(instruction, "LABEL")
            case Arg():
                self._arg(instruction)
            case Workdir():
                self._workdir(instruction)
            case Expose():
                self._expose(instruction)
            case Cmd() | Entrypoint():
                self._command(instruction)
            case Healthcheck():
                self._once(instruction)
            case Run():
                # Of its text a shell makes what it wants; the flags are the builder's
                for mount in instruction.mounts:
                    self._expand(mount, instruction)
            case User():
                self._expand(instruction.user, instruction)
            case Stopsignal():
                self._expand(instruction.signal, instruction)
            case Volume():
                for path in instruction.paths:
                    self._expand(path, instruction)
            case Shell():
                self._has_shell = True
            case Onbuild():
                self._triggers.append(instruction.text)

    # Variables

    def _expand(self, word: str, at: Instruction) -> str:
        """Return the value of a word, "" for one that cannot have any, and report variables nobody defines."""
        if "$" not in word and "'" not in word and '"' not in word and self._escape not in word:
            return word
        try:
            found = examine(word, self._values, self._escape)
        except InvalidValueError:
            # Whoever plans the build tells it
            return ""
        self._undefined(found.unset, at)
        return found.text

    def _undefined(self, names: Iterable[str], at: Instruction) -> None:
        report = self._report
        if report is None or not names:
            return
        for name in sorted(names):
            if name in self._declared or name in NOT_VARIABLES or report.is_full:
                continue
            near = nearest(name, self._values) if report.may_suggest() else ""
            message = f"Usage of undefined variable '${name}'" + (f" (did you mean ${near}?)" if near else "")
            self._add("UndefinedVar", at, message, _as_written(name, at))

    def _env(self, env: Env) -> None:
        # All values see the state before the instruction
        for name, value in self._pairs(env, "ENV"):
            self._values[name] = value

    def _pairs(self, instruction: Env | Label, word: str) -> list[tuple[str, str]]:
        pairs = [
            (self._expand(name, instruction), self._expand(value, instruction)) for name, value in instruction.pairs
        ]
        for name, _ in pairs:
            if instruction.legacy:
                written = instruction.keyword
                message = f'"{written} key=value" should be used instead of legacy "{written} key value" format'
                self._add("LegacyKeyValueFormat", instruction, message)
            if word == "ENV":
                self._secret("ENV", name, instruction)
        return pairs

    def _secret(self, word: str, name: str, at: Instruction) -> None:
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            message = f'Do not use ARG or ENV instructions for sensitive data ({word} "{name}")'
            self._add("SecretsUsedInArgOrEnv", at, message, name)

    def _arg(self, arg: Arg) -> None:
        for name, default in arg.args:
            self._secret("ARG", name, arg)
            value = self._facts.build_args.get(name)
            if value is None:
                value = self._globals.get(name) if default is None else self._expand(default, arg)
            self._declared.add(name)
            if value is not None and name not in NOT_VARIABLES:
                self._values[name] = value

    # Files

    def _copy(self, copy: Copy | Add) -> None:
        sources: list[str] = []
        for source in copy.sources:
            if not isinstance(source, Heredoc):
                sources.append(self._expand(source, copy))
            elif source.expand:
                self._body(source, copy)
        for word in (copy.dest, copy.chown, copy.chmod, *copy.excludes):
            self._expand(word or "", copy)
        if isinstance(copy, Add):
            self._expand(copy.checksum or "", copy)
        ignored = self._facts.ignored
        if ignored is None or (isinstance(copy, Copy) and copy.from_ is not None):
            return
        if any(pattern.startswith("!") for pattern in ignored.patterns):
            return
        word = "Add" if isinstance(copy, Add) else "Copy"
        for source in sources:
            if source and not (word == "Add" and source.lower().startswith(_REMOTE)):
                self._source(source, word, copy)

    def _body(self, heredoc: Heredoc, copy: Copy | Add) -> None:
        try:
            found = examine_body(heredoc.body, self._values)
        except InvalidValueError:
            # Whoever plans the build tells it
            return
        self._undefined(found.unset, copy)

    def _source(self, source: str, word: str, copy: Copy | Add) -> None:
        ignored = self._facts.ignored
        assert ignored is not None
        path = posixpath.normpath(source)
        inside = path.lstrip("/")
        if inside in ("", "."):
            left_out = any(pattern in _EVERYTHING for pattern in ignored.patterns)
        else:
            left_out = ignored.matches(inside)
        if left_out:
            message = f'Attempting to {word} file "{path}" that is excluded by .dockerignore'
            self._add("CopyIgnoredFile", copy, message, source)

    def _workdir(self, workdir: Workdir) -> None:
        path = self._expand(workdir.path, workdir)
        if not self._has_workdir and path and not path.startswith("/"):
            message = f'Relative workdir "{path}" can have unexpected results if the base image changes'
            self._add("WorkdirRelativePath", workdir, message, workdir.path)
        self._has_workdir = True

    # Config

    def _expose(self, expose: Expose) -> None:
        for text in expose.ports:
            try:
                # BuildKit does not tell undefined variables here, so neither do we
                words = examine_words(text, self._values, self._escape).words
            except InvalidValueError:
                # Whoever plans the build tells it
                continue
            for port in words:
                protocol = port.partition("/")[2]
                if protocol != protocol.lower():
                    message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                    self._add("ExposeProtoCasing", expose, message, port)
                if has_host_part(port):
                    message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                    self._add("ExposeInvalidFormat", expose, message, port)

    def _command(self, command: Cmd | Entrypoint) -> None:
        self._once(command)
        if isinstance(command.command, ShellForm) and not self._has_shell:
            message = (
                f"JSON arguments recommended for {command.keyword} to prevent unintended behavior related to OS signals"
            )
            self._add("JSONArgsRecommended", command, message, command.command.text.strip())

    def _once(self, instruction: Cmd | Entrypoint | Healthcheck) -> None:
        before = self._last.get(type(instruction))
        if before is not None:
            what = f"Multiple {before.keyword} instructions should not be used in the same stage"
            message = f"{what} because only the last one will be used"
            self._add("MultipleInstructionsDisallowed", before, message, before.keyword)
        self._last[type(instruction)] = instruction


def _as_written(name: str, at: Instruction) -> str:
    return next((text for text in (f"${name}", f"${{{name}") if text in at.original), name)
