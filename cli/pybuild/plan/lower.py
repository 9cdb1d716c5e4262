"""Instructions in effect: each becomes a change of the stage's config, an op, or both."""

import posixpath
from collections.abc import Sequence
from typing import assert_never

import msgspec

from pybuild.api import entitlements
from pybuild.api.request import BuildRequest
from pybuild.dockerfile.addresses import looks_remote, redacted
from pybuild.dockerfile.devices import parse_device
from pybuild.dockerfile.errors import Span
from pybuild.dockerfile.heredocs import Heredoc
from pybuild.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
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
from pybuild.dockerfile.modes import parse_chmod
from pybuild.dockerfile.ports import parse_port_spec
from pybuild.dockerfile.signals import check_signal
from pybuild.oci.image import DEFAULT_PATH, RunConfig
from pybuild.oci.image import Healthcheck as HealthcheckConfig
from pybuild.oci.platform import Platform
from pybuild.plan import mounting
from pybuild.plan.ops import (
    CopyOp,
    CopySource,
    MountSource,
    Op,
    Remote,
    RemoteFile,
    RunDevice,
    RunOp,
    Step,
    WorkdirOp,
)
from pybuild.plan.scope import MAX_ENVIRONMENT, PROXY_NAMES, Scope
from pybuild.plan.text import Text

DEFAULT_SHELL = ("/bin/sh", "-c")
PIPES = "/dev/pipes"
REMOTE = ("http://", "https://", "git://", "ssh://", "git@")


class StageBuilder:
    """The state of a stage while its instructions are applied one by one."""

    def __init__(
        self,
        *,
        text: Text,
        request: BuildRequest,
        config: RunConfig,
        scope: Scope,
        globals: dict[str, str],
        used_args: set[str],
        author: str,
        platform: Platform,
    ) -> None:
        self._text = text
        self._request = request
        self._globals = globals
        self._used_args = used_args
        self.scope = scope
        self.author = author
        self.platform = platform
        self.triggers: list[str] = list(config.OnBuild or ())
        self.steps: list[Step] = []
        self._config = msgspec.structs.replace(config, OnBuild=None)
        self._cmd_is_own = False
        if "PATH" not in scope.env:
            scope.set_env("PATH", DEFAULT_PATH)

    def config(self) -> RunConfig:
        """Return the config as it stands."""
        return msgspec.structs.replace(self._config, Env=self.scope.environment())

    def apply(self, instruction: Instruction, source: CopySource, mounted: Sequence[MountSource | None] = ()) -> None:
        """Put one instruction into effect; `source` is what a COPY reads, `mounted` what each mount of a RUN reads."""
        match instruction:
            case Run():
                self._run(instruction, mounted)
            case Copy() | Add():
                self._copy(instruction, source)
            case Env():
                self._env(instruction)
            case Arg():
                self._arg(instruction)
            case Label():
                self._label(instruction)
            case Expose():
                self._expose(instruction)
            case Volume():
                self._volume(instruction)
            case User():
                self._user(instruction)
            case Workdir():
                self._workdir(instruction)
            case Entrypoint():
                self._entrypoint(instruction)
            case Cmd():
                self._cmd(instruction)
            case Shell():
                self._set(instruction, f"SHELL {_go_list(instruction.argv)}", Shell=list(instruction.argv))
            case Stopsignal():
                self._stopsignal(instruction)
            case Healthcheck():
                self._healthcheck(instruction)
            case Onbuild():
                self._onbuild(instruction)
            case Maintainer():
                self.author = instruction.name
                self._step(instruction, f"MAINTAINER {instruction.name}")
            case From():
                raise self._text.error("FROM is not allowed here", instruction.span)
            case _ as unreachable:
                assert_never(unreachable)

    def _expand(self, word: str, instruction: Instruction) -> str:
        return self._text.expand(word, self.scope.values, instruction.span)

    def _step(self, instruction: Instruction, created_by: str, op: Op | None = None) -> None:
        span = instruction.span
        display = redacted(" ".join(instruction.original.split()))
        self.steps.append(Step(op, display, created_by, span.start_line, span.end_line))

    def _set(self, instruction: Instruction, created_by: str, **changes: object) -> None:
        self._config = msgspec.structs.replace(self._config, **changes)
        self._step(instruction, created_by)

    # RUN

    def _shell(self) -> tuple[str, ...]:
        return tuple(self._config.Shell) if self._config.Shell else DEFAULT_SHELL

    def _run(self, run: Run, mounted: Sequence[MountSource | None]) -> None:
        scripts: tuple[tuple[str, bytes], ...] = ()
        match run.command:
            case ExecForm(argv=given):
                argv = given
            case ShellForm(text=text):
                argv = (*self._shell(), text)
                lone = run.lone_heredoc
                if lone is not None and lone.body.startswith("#!"):
                    # The kernel reads the interpreter line, so the body must be a file
                    name = self._file_name(lone.name, run.span)
                    scripts = ((name, lone.body.encode(errors="surrogateescape")),)
                    argv = (f"{PIPES}/{name}",)
                elif lone is not None:
                    argv = (*self._shell(), lone.body)
        if not argv:
            raise self._text.error("RUN needs a command", run.span)
        namespace = self._request.build_args.get("BUILDKIT_CACHE_MOUNT_NS") or ""
        mounts = mounting.lower(run, mounted, self._text, self.scope.values, self._cwd(), namespace)
        declared = mounting.masked(self.scope.declared(), mounts)
        prefix = [f"|{len(declared)}", *declared] if declared else []
        env = self.scope.run_environment()
        op = RunOp(
            argv=argv,
            env=tuple({**env, **mounting.variables(mounts, env)}.items()),
            hidden_env=self._proxies(),
            cwd=self._cwd(),
            user=self._config.User,
            network=self._network(run),
            scripts=scripts,
            mounts=mounts,
            insecure=self._is_insecure(run),
            args=tuple(name for name in self.scope.args if name not in self.scope.env),
            platform=str(self.platform),
            devices=tuple(self._device(written, run) for written in run.devices),
        )
        self._step(run, "RUN " + " ".join([*prefix, *argv]) + " # buildkit", op)

    def _device(self, written: str, run: Run) -> RunDevice:
        device = self._text.checked(parse_device, written, run.span)
        name, allowed = entitlements.device_of(device.name, self._request.allow)
        return RunDevice(name, device.required, allowed)

    def _is_insecure(self, run: Run) -> bool:
        if run.security != "insecure":
            return False
        if entitlements.INSECURE not in self._request.allow:
            raise self._text.error(
                "RUN --security=insecure needs the permission of whoever builds",
                run.span,
                f"build with `--allow {entitlements.INSECURE}` if you trust it as you trust yourself",
            )
        return True

    def _file_name(self, name: str, span: Span) -> str:
        """Return a heredoc's name, which becomes that of a file."""
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise self._text.error(f"the name of a heredoc cannot be that of a file: {name!r}", span)
        return name

    def _network(self, run: Run) -> str:
        if run.network in (None, "", "default"):
            return self._request.network
        if run.network == "host" and self._request.network != "host":
            if entitlements.HOST_NETWORK not in self._request.allow:
                raise self._text.error(
                    "RUN --network=host needs the permission of whoever builds",
                    run.span,
                    f"build with `--network=host`, or `--allow {entitlements.HOST_NETWORK}`",
                )
            if self._request.network == "none":
                raise self._text.error("RUN --network=host in a build without a network", run.span)
        return str(run.network)

    def _proxies(self) -> tuple[tuple[str, str], ...]:
        given = self._request.build_args
        return tuple(
            (name, str(given[name]))
            for name in sorted(PROXY_NAMES & set(given))
            if given[name] is not None and name not in self.scope.values
        )

    def _cwd(self) -> str:
        return posixpath.normpath(self._config.WorkingDir or "/")

    # COPY and ADD

    def _copy(self, copy: Copy | Add, source: CopySource) -> None:
        name = "ADD" if isinstance(copy, Add) else "COPY"
        sources: list[str] = []
        shown: list[str] = []
        inline: list[tuple[str, bytes]] = []
        remotes: list[tuple[Remote, int]] = []
        for item in copy.sources:
            if isinstance(item, Heredoc):
                body = item.body
                if item.expand:
                    body = self._text.body(body, self.scope.values, copy.span)
                inline.append((self._file_name(item.name, copy.span), body.encode(errors="surrogateescape")))
                continue
            word = self._expand(item, copy)
            if isinstance(copy, Copy) and word.startswith(REMOTE):
                raise self._text.error(f"source can't be a URL for COPY: {redacted(word)}", copy.span, "write ADD")
            shown.append(word)
            remote = self._remote(word, copy) if isinstance(copy, Add) else None
            if remote is None:
                sources.append(word)
            else:
                remotes.append((remote, len(sources)))
                shown[-1] = redacted(word)
        dest = self._expand(copy.dest, copy)
        chown = self._expand(copy.chown or "", copy)
        chmod = self._expand(copy.chmod or "", copy)
        parents = isinstance(copy, Copy) and copy.parents
        if chmod:
            self._text.checked(parse_chmod, chmod, copy.span)
        op = CopyOp(
            instruction=name,
            source=source,
            sources=tuple(sources),
            inline=tuple(inline),
            dest=self._absolute(dest),
            chown=chown,
            chmod=chmod,
            unpack=isinstance(copy, Add) and copy.unpack is not False,
            # With --chmod BuildKit makes the layer on the one below, as if there were no --link
            link=bool(copy.link) and not chmod,
            parents=parents,
            excludes=tuple(self._expand(pattern, copy) for pattern in copy.excludes),
            remotes=tuple(remote for remote, _ in remotes),
            preceding=tuple(before for _, before in remotes),
        )
        if isinstance(copy, Add):
            self._check_checksum(copy, op)
        flags = ["--parents"] * parents + [f"--chown={chown}"] * bool(chown) + [f"--chmod={chmod}"] * bool(chmod)
        shown += [f"<<{heredoc_name}" for heredoc_name, _ in inline]
        self._step(copy, " ".join([name, *flags, *shown, dest, "# buildkit"]), op)

    def _remote(self, word: str, add: Add) -> Remote | None:
        """Return what is to be fetched for a source of ADD, None for a local one."""
        if not looks_remote(word):
            return None
        from pybuild.dockerfile.remotes import Repository, Url, check_commit, check_digest, parse_remote
        from pybuild.plan.remotes import tree_of

        found = self._text.checked(parse_remote, word, add.span)
        checksum = self._expand(add.checksum or "", add)
        if isinstance(found, Repository):
            commit = self._text.checked(check_commit, checksum, add.span)
            for keep in filter(None, (found.commit,)):
                if commit and not (commit.startswith(keep) or keep.startswith(commit)):
                    raise self._text.error(f"--checksum contradicts the address: {commit}, {keep}", add.span)
            return tree_of(found, commit=max(commit, found.commit, key=len), keep_git_dir=add.keep_git_dir)
        if isinstance(found, Url):
            if checksum:
                self._text.checked(check_digest, checksum, add.span)
            return RemoteFile(found.address, found.name, checksum, unpack=add.unpack is True)
        return None

    def _check_checksum(self, add: Add, op: CopyOp) -> None:
        if add.checksum is not None and (len(op.remotes) != 1 or op.sources or op.inline):
            raise self._text.error(
                "ADD --checksum is for one source, a URL or a git repository", add.span, "write an ADD for each source"
            )

    def _absolute(self, dest: str) -> str:
        """Return `dest` below WORKDIR; whether it ended as a directory is kept."""
        joined = posixpath.join(self._config.WorkingDir or "/", dest)
        cleaned = posixpath.normpath(joined)
        cleaned = "/" + cleaned.lstrip("/")
        directory = dest.endswith(("/", "/.")) or dest == "."
        return cleaned if cleaned == "/" or not directory else cleaned + "/"

    # Config

    def _env(self, env: Env) -> None:
        pairs = [(self._expand(name, env), self._expand(value, env)) for name, value in env.pairs]
        for name, value in pairs:
            if not name:
                raise self._text.error("ENV names can not be blank", env.span)
            self.scope.set_env(name, value)
        self._check_size(env)
        self._step(env, "ENV " + " ".join(f"{name}={value}" for name, value in pairs))

    def _arg(self, arg: Arg) -> None:
        shown: list[str] = []
        for name, default in arg.args:
            value = self._request.build_args.get(name)
            if name in self._request.build_args:
                self._used_args.add(name)
            if value is None and default is not None:
                value = self._expand(default, arg)
            if value is None and default is None:
                value = self._globals.get(name)
            self.scope.set_arg(name, value)
            shown.append(name if value is None else f"{name}={value}")
        self._check_size(arg)
        self._step(arg, "ARG " + " ".join(shown))

    def _check_size(self, instruction: Instruction) -> None:
        if self.scope.size() > MAX_ENVIRONMENT:
            raise self._text.error(f"variables hold more than {MAX_ENVIRONMENT} bytes", instruction.span)

    def _label(self, label: Label) -> None:
        labels = dict(self._config.Labels or {})
        pairs = [(self._expand(name, label), self._expand(value, label)) for name, value in label.pairs]
        for name, value in pairs:
            if not name:
                raise self._text.error("LABEL names can not be blank", label.span)
            labels[name] = value
        self._set(label, "LABEL " + " ".join(f"{name}={value}" for name, value in pairs), Labels=labels)

    def _expose(self, expose: Expose) -> None:
        # In this order, which is BuildKit's, they are in the history
        given = sorted(expose.ports)
        words = [word for port in given for word in self._text.words(port, self.scope.values, expose.span)]
        ports: list[str] = []
        for word in words:
            ports += self._text.checked(parse_port_spec, word, expose.span)
        exposed = {**(self._config.ExposedPorts or {}), **{port: {} for port in ports}}
        self._set(expose, f"EXPOSE {_go_list(ports)}", ExposedPorts=exposed)

    def _volume(self, volume: Volume) -> None:
        paths = [self._expand(path, volume) for path in volume.paths]
        if not all(path.strip() for path in paths):
            raise self._text.error("VOLUME names can not be blank", volume.span)
        volumes = {**(self._config.Volumes or {}), **{path: {} for path in paths}}
        self._set(volume, f"VOLUME {_go_list(paths)}", Volumes=volumes)

    def _user(self, user: User) -> None:
        name = self._expand(user.user, user)
        if not name or any(char.isspace() or not char.isprintable() for char in name):
            raise self._text.error(f"not a user name or id: {name!r}", user.span)
        self._set(user, f"USER {name}", User=name)

    def _workdir(self, workdir: Workdir) -> None:
        path = self._expand(workdir.path, workdir)
        if "\0" in path:
            raise self._text.error("a path cannot hold a NUL byte", workdir.span)
        if not path.startswith("/"):
            path = posixpath.normpath(posixpath.join(self._config.WorkingDir or "/", path))
        self._config = msgspec.structs.replace(self._config, WorkingDir=path)
        made = self._cwd()
        op = WorkdirOp(made, self._config.User) if made.strip("/") else None
        self._step(workdir, f"WORKDIR {path}", op)

    def _command(self, command: ShellForm | ExecForm) -> list[str]:
        match command:
            case ExecForm(argv=argv):
                return list(argv)
            case ShellForm(text=text):
                return [*self._shell(), text]

    def _entrypoint(self, entrypoint: Entrypoint) -> None:
        argv = self._command(entrypoint.command)
        changes: dict[str, object] = {"Entrypoint": argv or None}
        if not self._cmd_is_own:
            # The base's CMD was meant as arguments of the base's entry point
            changes["Cmd"] = None
        self._set(entrypoint, f"ENTRYPOINT {_quoted_list(argv)}", **changes)

    def _cmd(self, cmd: Cmd) -> None:
        argv = self._command(cmd.command)
        self._cmd_is_own = True
        # Docker's mark, of old for Windows, that its own builds leave in every image with a CMD
        self._set(cmd, f"CMD {_quoted_list(argv)}", Cmd=argv or None, ArgsEscaped=True)

    def _stopsignal(self, stopsignal: Stopsignal) -> None:
        name = self._expand(stopsignal.signal, stopsignal)
        self._text.checked(check_signal, name, stopsignal.span)
        self._set(stopsignal, f"STOPSIGNAL {name}", StopSignal=name)

    def _healthcheck(self, check: Healthcheck) -> None:
        test = list(check.test)
        config = HealthcheckConfig(
            Test=test,
            Interval=check.interval,
            Timeout=check.timeout,
            StartPeriod=check.start_period,
            StartInterval=check.start_interval,
            Retries=check.retries,
        )
        fields = {
            "Test": _go_list(test),
            "Interval": _go_duration(check.interval),
            "Timeout": _go_duration(check.timeout),
            "StartPeriod": _go_duration(check.start_period),
            "StartInterval": _go_duration(check.start_interval),
            "Retries": str(check.retries),
        }
        shown = " ".join(f"{name}:{value}" for name, value in fields.items())
        self._set(check, f"HEALTHCHECK {{{shown}}}", Healthcheck=config)

    def _onbuild(self, onbuild: Onbuild) -> None:
        triggers = [*(self._config.OnBuild or ()), onbuild.text]
        self._config = msgspec.structs.replace(self._config, OnBuild=triggers)


def _go_list(items: Sequence[str]) -> str:
    """Return `[a b]`, as Go prints a list of strings."""
    return "[" + " ".join(items) + "]"


def _quoted_list(items: Sequence[str]) -> str:
    """Return `["a" "b"]`, as Go's %q prints a list of strings."""
    return "[" + " ".join(f'"{"".join(map(_go_escape, item))}"' for item in items) + "]"


_GO_ESCAPES = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
    "\v": "\\v",
}  # fmt: skip


def _go_escape(char: str) -> str:
    """Return a character as Go's %q shows it inside of quotes."""
    known = _GO_ESCAPES.get(char)
    if known is not None:
        return known
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        # A byte that is no UTF-8, as Python keeps it
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _go_duration(nanoseconds: int) -> str:
    """Return a duration as Go prints it: 1m30s, 1.5s, 20ms, 0s."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if nanoseconds >= size:
                return f"{_decimal(nanoseconds, size)}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 1_000_000_000)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    if not part:
        return str(whole)
    digits = len(str(unit)) - 1
    return f"{whole}.{part:0{digits}d}".rstrip("0")
