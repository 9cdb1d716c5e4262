"""Rules of style: a parsed Dockerfile -> findings."""

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from pybuild.plugin import Dockerfile, Finding, Stage, instructions
from pybuild_check.rules import STYLES
from pybuild_check.shell import Called, commands

_ARCHIVE = re.compile(r"\.(tar|tgz|tbz2?|txz|tzst)(\.\w+)?$|\.(gz|bz2|xz|zst)$")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|git@")
_CHECK_COMMENT = re.compile(r"check=.*?skip=([\w,]+)", re.IGNORECASE)
_HADOLINT_COMMENT = re.compile(r"hadolint\s+(?:global\s+)?ignore=([\w,]+)", re.IGNORECASE)
_SHELLS = ("sh", "bash", "ash", "dash", "zsh", "python", "python3", "perl")
_DOWNLOADERS = ("curl", "wget")
_NO_INIT = ("service", "systemctl", "shutdown", "reboot", "init", "telinit")
_PIP = re.compile(r"pip[0-9.]*")

_Told = tuple[str, str, str]
"""Rule, message, and the word of the instruction that is meant."""


def look(dockerfile: Dockerfile, *, strict: bool = False, skip: Collection[str] = ()) -> list[Finding]:
    """Return what the rules find, in the order of the file; comments of the file silence rules as for build checks."""
    found: list[Finding] = []
    lines = dockerfile.text.split("\n")
    everywhere = _global_comments(lines)
    for stage in dockerfile.stages:
        for at, (rule, message, mark) in _of_stage(dockerfile, stage):
            silent = rule in skip or dockerfile.check.skips(rule) or (STYLES[rule].strict and not strict)
            if not silent and not _silenced(rule, [*at.comments, *everywhere]):
                found.append(_placed(rule, message, at, mark, lines))
    return sorted(dict.fromkeys(found), key=lambda finding: finding.line)


def _global_comments(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.startswith("#") and "hadolint global ignore=" in line]


def _silenced(rule: str, comments: Sequence[str]) -> bool:
    for comment in comments:
        ours, theirs = _CHECK_COMMENT.search(comment), _HADOLINT_COMMENT.search(comment)
        if ours and {"all", rule} & set(ours[1].split(",")):
            return True
        if theirs and set(STYLES[rule].hadolint) & set(theirs[1].split(",")):
            return True
    return False


def _placed(rule: str, message: str, at: instructions.Located, mark: str, lines: Sequence[str]) -> Finding:
    first, last = at.span.start_line, at.span.end_line
    for number in range(first, last + 1):
        line = lines[number - 1]
        word = re.search(rf"(?<![\w-]){re.escape(mark)}(?![\w-])", line) if mark else None
        if word:
            return Finding(rule, message, first, last, number, word.start() + 1, len(mark))
    written = lines[first - 1].strip()
    return Finding(rule, message, first, last, first, lines[first - 1].find(written) + 1, len(written))


def _of_stage(dockerfile: Dockerfile, stage: Stage) -> Iterator[tuple[instructions.Located, _Told]]:
    names = {other.name for other in dockerfile.stages[: stage.index] if other.name}
    for told in _base(stage.from_, names):
        yield stage.from_, told
    workdir = stage.from_.reference.lower() in names
    pipefail, user, before = False, None, None
    for at in stage.instructions:
        match at:
            case instructions.Run():
                script = at.script_text
                called = commands(script) if script is not None else [Called(_argv(at), "", "")]
                yield from ((at, told) for told in _run(at, called, pipefail=pipefail, shell=script is not None))
                if isinstance(before, instructions.Run):
                    yield at, ("StepsInARow", "this step and the one before could be one", "")
                if isinstance(before, instructions.Copy | instructions.Add):
                    yield from ((at, told) for told in _owner(before, called))
            case instructions.Copy() | instructions.Add():
                yield from ((at, told) for told in _copy(at, workdir=workdir))
            case instructions.Workdir():
                workdir = True
            case instructions.Shell():
                pipefail = "pipefail" in " ".join(at.argv)
            case instructions.User():
                user = at
            case _:
                pass
        before = at
    if user is not None and stage is dockerfile.stages[-1] and user.user.partition(":")[0] in ("root", "0"):
        yield user, ("LastUserRoot", "the last USER is root", user.user)


def _base(from_: instructions.From, names: Collection[str]) -> Iterator[_Told]:
    reference = from_.reference
    if reference.lower() in names or reference.lower() == "scratch" or "$" in reference or "@" in reference:
        return
    name = reference.rpartition("/")[2]
    if ":" not in name:
        yield "BaseWithoutVersion", f"{reference} is without a version", reference
    elif name.endswith(":latest"):
        yield "BaseWithoutVersion", f"{reference} is whatever is the newest", reference


def _argv(run: instructions.Run) -> tuple[str, ...]:
    command = run.command
    return command.argv if isinstance(command, instructions.ExecForm) and command.argv else ("",)


def _run(run: instructions.Run, called: Sequence[Called], *, pipefail: bool, shell: bool) -> Iterator[_Told]:
    cached = " ".join(run.mounts)
    names = [command.name for command in called]
    if called and called[0].name == "cd" and shell and called[0].arguments() and called[0].arguments()[0][0] in "/~":
        yield "CdInsteadOfWorkdir", f"the step begins with cd {called[0].arguments()[0]}", "cd"
    for command in called:
        if command.name == "sudo":
            yield "Sudo", "sudo in a step", "sudo"
        if command.name in _NO_INIT:
            yield "NoInit", f"{command.name} has nothing to talk to in a build", command.name
        if command.name == "useradd" and not command.has("-l", "--no-log-init") and _high_id(command):
            yield "UserWithHugeLog", "useradd with a high id and without --no-log-init", "useradd"
    yield from _apt(called, cached)
    yield from _other_managers(called, cached)
    yield from _pipes(called, names, pipefail=pipefail)


def _high_id(command: Called) -> bool:
    text = " ".join(command.words)
    found = re.search(r"(?:-u|--uid)[ =]?(\d+)", text)
    return found is not None and len(found[1]) > 5


def _apt(called: Sequence[Called], cached: str) -> Iterator[_Told]:
    apt = [command for command in called if command.name in ("apt-get", "apt", "aptitude")]
    installs = [command for command in apt if "install" in command.arguments()]
    updates = [command for command in apt if "update" in command.arguments()]
    for command in apt:
        if command.name == "apt":
            yield "AptForPeople", "apt in a step, apt-get is for scripts", "apt"
    for command in installs:
        if not command.has("-y", "--yes", "--assume-yes", "-qq") and "yes" not in [other.name for other in called]:
            yield "AptWithoutYes", f"{command.name} install without -y", "install"
        if not command.has("--no-install-recommends") and "Install-Recommends=" not in " ".join(command.words):
            yield "AptRecommends", f"{command.name} install without --no-install-recommends", "install"
        packages = command.arguments()[command.arguments().index("install") + 1 :]
        yield from _unpinned(packages, "=", command.name)
    if updates and not installs and not {"upgrade", "dist-upgrade"} & {word for one in apt for word in one.words}:
        yield "AptUpdateAlone", "apt-get update without an install in the same step", updates[0].name
    removes = any(one.name in ("rm", "find") and "/var/lib/apt/lists" in " ".join(one.words) for one in called)
    if updates and installs and not removes and "/var/lib/apt" not in cached:
        yield "AptLists", "the lists of apt stay in the layer", updates[0].name


def _other_managers(called: Sequence[Called], cached: str) -> Iterator[_Told]:
    cleans = any(one.name in ("yum", "dnf", "microdnf") and "clean" in one.words for one in called)
    cleans = cleans or any(one.name == "rm" and "/var/cache" in " ".join(one.words) for one in called)
    for command in called:
        words = command.arguments()
        if command.name == "apk" and "add" in words:
            if not command.has("--no-cache") and "/var/cache/apk" not in cached and "/etc/apk/cache" not in cached:
                yield "ApkCache", "apk add without --no-cache", "apk"
            yield from _unpinned(words[words.index("add") + 1 :], "=", "apk")
        elif command.name in ("yum", "dnf", "microdnf") and "install" in words:
            if not command.has("-y", "--assumeyes"):
                yield "DnfWithoutYes", f"{command.name} install without -y", "install"
            if not cleans and "/var/cache" not in cached:
                yield "DnfCache", f"the cache of {command.name} stays in the layer", command.name
        elif _is_pip(command) and "install" in words:
            if not command.has("--no-cache-dir") and "pip" not in cached and "/root/.cache" not in cached:
                yield "PipCache", "pip install without --no-cache-dir", "pip"
            if not command.has("-r", "--requirement", "-c", "--constraint", "-e", "--editable"):
                packages = [
                    word for word in words[words.index("install") + 1 :] if not word.startswith((".", "/", "$"))
                ]
                yield from _unpinned(packages, "==", "pip")
        elif command.name == "npm" and "install" in words and command.has("-g", "--global"):
            yield from _unpinned(words[words.index("install") + 1 :], "@", "npm")


def _is_pip(command: Called) -> bool:
    if _PIP.fullmatch(command.name):
        return True
    return command.name.startswith("python") and command.words[1:3] == ("-m", "pip")


def _unpinned(packages: Sequence[str], mark: str, name: str) -> Iterator[_Told]:
    for package in packages:
        if mark not in package[1:] and "$" not in package and not package.startswith((".", "/")):
            yield "PackageWithoutVersion", f"{name} installs {package} in any version", package


def _pipes(called: Sequence[Called], names: Sequence[str], *, pipefail: bool) -> Iterator[_Told]:
    sets = any(one.name == "set" and "pipefail" in one.words for one in called)
    for first, then in pairwise(called):
        if first.behind not in ("|", "|&"):
            continue
        if first.name in _DOWNLOADERS and then.name in _SHELLS:
            yield "DownloadToShell", f"{then.name} runs what {first.name} gets", first.name
        if not pipefail and not sets:
            yield "PipeHidesFailure", f"a failure of {first.name} goes unseen", first.name
            return


def _owner(copy: instructions.Copy | instructions.Add, called: Sequence[Called]) -> Iterator[_Told]:
    dest = copy.dest.rstrip("/")
    for command in called:
        targets = [word.rstrip("/") for word in command.arguments()[1:]]
        if command.name in ("chown", "chmod") and dest and dest in targets:
            flag = "--chown" if command.name == "chown" else "--chmod"
            yield (
                "OwnerInStepOfItsOwn",
                f"{command.name} of what was copied one step before, {flag} does both",
                command.name,
            )


def _copy(copy: instructions.Copy | instructions.Add, *, workdir: bool) -> Iterator[_Told]:
    if not workdir and not copy.dest.startswith(("/", "$")) and not re.match(r"[A-Za-z]:", copy.dest):
        yield "RelativeDestination", f"where {copy.dest} is depends on the base image", copy.dest
    if isinstance(copy, instructions.Add):
        sources = [source for source in copy.sources if isinstance(source, str)]
        plain = [source for source in sources if not _ADDRESS.match(source) and not _ARCHIVE.search(source)]
        if plain and len(plain) == len(copy.sources) and not any("$" in source or "*" in source for source in plain):
            yield "AddInsteadOfCopy", f"COPY copies {plain[0]} just as well", copy.keyword
