"""`pybuild build`: flags become a request, events are shown, results are written."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from pybuild.api.events import Built, Failed, Reads, ShellEnded, ShellOpened
from pybuild.api.request import BuildRequest, Output
from pybuild.commands.option import Argument, InsecureRegistries, Option, ProgressKind
from pybuild.errors import ExitCode, PybuildError, UsageError

if TYPE_CHECKING:
    from pybuild.client.backend import Backend

MAX_DOCKERFILE = 4 << 20
"""Largest Dockerfile taken from standard input, in bytes."""


def build(
    context: Annotated[
        str,
        Argument(
            help="A directory, the URL of a tar, a Dockerfile or a git repository (#REF:DIR), or - for standard input.",
            metavar="CONTEXT",
        ),
    ],
    tag: Annotated[list[str] | None, Option("-t", "--tag", help="Name of the image.", metavar="NAME")] = None,
    file: Annotated[str, Option("-f", "--file", help="The Dockerfile, - for standard input.", metavar="FILE")] = "",
    build_arg: Annotated[
        list[str] | None,
        Option(help="Value for ARG; NAME alone takes it from the environment.", metavar="NAME=V"),
    ] = None,
    build_context: Annotated[
        list[str] | None,
        Option(
            help="Files or an image by name: a directory, a URL, docker-image://, oci-layout:// or target:.",
            metavar="NAME=V",
        ),
    ] = None,
    target: Annotated[str, Option(help="Stage to build.", metavar="STAGE")] = "",
    label: Annotated[list[str] | None, Option(help="Label of the image.", metavar="KEY=V")] = None,
    no_cache: Annotated[bool, Option("--no-cache", help="Do everything anew.")] = False,
    no_cache_filter: Annotated[list[str] | None, Option(help="Do these stages anew.", metavar="STAGE,...")] = None,
    network: Annotated[
        str,
        Option(help="Network of RUN: private, host, none, or default: private where possible.", metavar="MODE"),
    ] = "default",
    add_host: Annotated[list[str] | None, Option(help="Line of /etc/hosts.", metavar="NAME:IP")] = None,
    shm_size: Annotated[str, Option(help="Size of /dev/shm, such as 64m.", metavar="SIZE")] = "",
    ulimit: Annotated[list[str] | None, Option(help="Limit of RUN.", metavar="NAME=SOFT[:HARD]")] = None,
    output: Annotated[
        list[str] | None,
        Option(
            "-o",
            "--output",
            help="type=oci|docker|tar|local,dest=PATH[,rewrite-timestamp=true], - is standard output; "
            "type=registry; type=image[,name=NAME][,push=true] is kept in the store, as all images are.",
            metavar="SPEC",
        ),
    ] = None,
    iidfile: Annotated[str, Option(help="Write the image id to this file.", metavar="FILE")] = "",
    metadata_file: Annotated[str, Option(help="Write what was built to this file.", metavar="FILE")] = "",
    digest_file: Annotated[str, Option(help="Write the digest of what was pushed to this file.", metavar="FILE")] = "",
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print the image id only.")] = False,
    progress: ProgressKind = "auto",
    inline: Annotated[
        bool | None,
        Option("--inline/--no-inline", help="In this process, or in the daemon; the default is what is ready."),
    ] = None,
    ca_bundle: Annotated[
        str, Option(help="Certificates (PEM) that RUN trusts; not in the image.", metavar="FILE")
    ] = "",
    memory: Annotated[str, Option("-m", "--memory", help="Most memory of a RUN.", metavar="SIZE")] = "",
    memory_swap: Annotated[str, Option(help="Memory and swap together; -1 is no limit of swap.", metavar="SIZE")] = "",
    cpus: Annotated[str, Option(help="Processors of a RUN, such as 1.5.", metavar="N")] = "",
    cpu_quota: Annotated[int, Option(help="Microseconds of each --cpu-period.", metavar="N")] = 0,
    cpu_period: Annotated[int, Option(help="Microseconds; 100000 without it.", metavar="N")] = 0,
    cpuset_cpus: Annotated[str, Option(help="Processors to use, such as 0-2,4.", metavar="LIST")] = "",
    pids_limit: Annotated[int, Option(help="Most processes of a RUN.", metavar="N")] = 0,
    limits: Annotated[
        str, Option(help="strict, or best-effort: what cannot be limited here is told.", metavar="KIND")
    ] = "strict",
    timeout: Annotated[str, Option(help="Most time of the build, such as 1h30m.", metavar="TIME")] = "",
    step_timeout: Annotated[str, Option(help="Most time of each RUN.", metavar="TIME")] = "",
    platform: Annotated[
        list[str] | None,
        Option(help="Platforms of the image; this machine's is the default.", metavar="OS/ARCH[/V],..."),
    ] = None,
    root_emulation: Annotated[
        str,
        Option(help="With one user id only, how RUN is root: auto, off, fake or full.", metavar="HOW"),
    ] = "auto",
    snapshotter: Annotated[
        str,
        Option(
            help="What RUN stands on: auto, overlay or copy; else $PYBUILD_SNAPSHOTTER.",
            metavar="KIND",
        ),
    ] = "",
    isolation: Annotated[
        str,
        Option(
            help="How RUN is kept apart: auto, namespaces or chroot; else $PYBUILD_ISOLATION.",
            metavar="KIND",
        ),
    ] = "",
    secret: Annotated[
        list[str] | None,
        Option(help="For RUN --mount=type=secret: id=ID[,src=FILE|,env=NAME].", metavar="SPEC"),
    ] = None,
    ssh: Annotated[
        list[str] | None,
        Option(help="For RUN --mount=type=ssh: default, or ID=SOCKET, or ID=KEY[,KEY...].", metavar="SPEC"),
    ] = None,
    allow: Annotated[
        list[str] | None,
        Option(help="What RUN may ask for: network.host, security.insecure, device[=NAME].", metavar="NAME"),
    ] = None,
    shell_on_fail: Annotated[
        bool,
        Option("--shell-on-fail", help="Open a shell where a RUN fails; without a terminal keep its tree for one."),
    ] = False,
    max_download: Annotated[
        str, Option(help="Most bytes of a file or repository to fetch, such as 2g; 16g without it.", metavar="SIZE")
    ] = "",
    shell_command: Annotated[
        str, Option(help="What that opens, instead of the image's shell.", metavar="COMMAND")
    ] = "",
    cache_from: Annotated[
        list[str] | None,
        Option(
            help="Take results of steps from type=local,src=DIR, type=registry,ref=NAME, or an IMAGE.", metavar="SPEC"
        ),
    ] = None,
    cache_to: Annotated[
        list[str] | None,
        Option(
            help="Give them to type=local,dest=DIR, type=registry,ref=NAME, both also with mode=max, or type=inline.",
            metavar="SPEC",
        ),
    ] = None,
    max_size: Annotated[
        str, Option(help="Most the store may take afterwards; what was used least recently goes.", metavar="SIZE")
    ] = "",
    min_free: Annotated[str, Option(help="What is to stay free on the store's disk.", metavar="SIZE")] = "",
    check: Annotated[
        bool, Option("--check", help="Look for mistakes in the Dockerfile and build nothing; ends with 1 if there are.")
    ] = False,
    call: Annotated[str, Option(help="build, or check[,format=FORMAT].", metavar="METHOD")] = "",
    watch: Annotated[
        bool,
        Option(
            "--watch", help="Build again when something changes that steps read of CONTEXT or of named directories."
        ),
    ] = False,
    format_: Annotated[
        str, Option("--format", help="For --check: text, json, sarif or github.", metavar="FORMAT")
    ] = "",
    pull: Annotated[
        str,
        Option(bare="always", help="Ask registries for images: always, if missing (default), never.", metavar="WHEN"),
    ] = "missing",
    push: Annotated[bool, Option("--push", help="Push the image under its names, as -o type=registry.")] = False,
    insecure_registry: InsecureRegistries = None,
) -> int:
    """Build an image from a Dockerfile and the files of CONTEXT."""
    from pybuild.commands import caches, flags, given, registries
    from pybuild.engine import room
    from pybuild.plugin.events import check_progress

    form = _check_form(check, call, format_) if check or call or format_ else ""
    if watch and (form or context == "-" or given.is_remote(context)):
        raise UsageError(f"--watch does not go with {'--check' if form else 'a context that is no directory'}")
    check_progress(progress)
    given_args = flags.build_args(build_arg or (), os.environ)
    outputs = [flags.by_platform(flags.output(text, Path.cwd()), given_args) for text in output or ()]
    outputs += [Output("registry", "")] * push
    rewrites = [flags.rewrites(item) for item in outputs]
    outputs, kept_as = flags.images(outputs)
    to_plugins = [item for item in outputs if item.type not in flags.OUTPUT_TYPES]
    outputs = [item for item in outputs if item not in to_plugins]
    to_stdout = _one_to_stdout(outputs)
    settings = _settings()
    most, least = room.limits({"max_size": max_size, "min_free": min_free}, os.environ, settings)
    request = BuildRequest(
        context="" if context == "-" else _directory(context),
        dockerfile=_dockerfile(file, context),
        tags=tuple(dict.fromkeys((*(flags.tag(name) for name in tag or ()), *kept_as))),
        build_args={**_proxies(settings), **given_args},
        target=target,
        labels=flags.labels(label or ()),
        no_cache=no_cache,
        no_cache_filter=tuple(name for item in no_cache_filter or () for name in item.split(",") if name),
        network=flags.network(network),
        extra_hosts=tuple(map(flags.add_host, add_host or ())),
        shm_size=flags.size(shm_size, "--shm-size") if shm_size else 0,
        ulimits=tuple(map(flags.ulimit, ulimit or ())),
        outputs=tuple(item for item in outputs if item is not to_stdout),
        rewrite_timestamp=any(rewrites),
        platform=",".join(platform or ()),
        root_emulation=flags.emulation(root_emulation),
        snapshotter=flags.snapshotter(snapshotter, settings),
        isolation=flags.isolation(isolation, settings),
        dockerfile_text=_dockerfile_text(file, context),
        limits=flags.limits(memory, memory_swap, cpus, cpu_quota, cpu_period, cpuset_cpus, pids_limit, limits),
        ca_bundle=flags.ca_bundle(ca_bundle),
        timeout=flags.duration(timeout, "--timeout"),
        step_timeout=flags.duration(step_timeout, "--step-timeout"),
        secrets=given.secrets(secret, os.environ) if secret else {},
        ssh=given.agents(ssh, os.environ) if ssh else (),
        allow=given.entitlements(allow) if allow else (),
        on_fail=_on_fail(shell_on_fail, progress),
        shell_command=flags.words(shell_command, "--shell-command"),
        cache_from=tuple(caches.source(text, Path.cwd()) for text in cache_from or ()),
        cache_to=tuple(caches.target(text, Path.cwd()) for text in cache_to or ()),
        max_size=most,
        min_free=least,
        build_contexts=given.contexts(build_context) if build_context else {},
        proxies=registries.proxies(),
        pull=registries.pull_policy(pull),
        registries=registries.settings(insecure_registry or ()),
        max_download=flags.size(max_download, "--max-download") if max_download else 0,
        term=os.environ.get("TERM", "") if shell_on_fail else "",
        call="check" if form else "build",
        watch=watch,
    )
    if form:
        from pybuild.commands import checks

        with _context(context) as stream:
            return checks.check(request, stream, inline=inline, form=form)
    if digest_file and all(output.type != "registry" for output in outputs):
        raise UsageError("--digest-file is for the digest at a registry", "`--push` brings the image there")
    for path in filter(None, (iidfile, metadata_file, digest_file)):
        _check_parent(path)
    mode = "quiet" if quiet and progress != "json" else progress
    run = partial(
        _run,
        request,
        inline=inline,
        mode=mode,
        to_stdout=to_stdout,
        to_plugins=to_plugins,
        iidfile=iidfile,
        metadata_file=metadata_file,
        digest_file=digest_file,
        print_id=quiet and to_stdout is None,
    )
    if watch:
        from pybuild.commands import watching

        written = [*filter(None, (*(item.dest for item in outputs), iidfile, metadata_file, digest_file))]
        watching.watch(run, request, written, tell=mode in ("auto", "tty", "plain"))
    with _context(context) as stream:
        return run(stream)


def _check_form(check: bool, call: str, form: str) -> str:
    from pybuild.commands import checks

    return checks.form_of(check, call, form)


def _settings() -> dict[str, Any]:
    from pybuild.engine import paths

    return paths.config()


def _proxies(settings: Mapping[str, Any]) -> dict[str, str]:
    from pybuild.commands import proxies

    return proxies.configured(settings, os.environ)


def _run(
    request: BuildRequest,
    context: BinaryIO | None,
    *,
    inline: bool | None,
    mode: str,
    to_stdout: Output | None,
    to_plugins: Sequence[Output],
    iidfile: str,
    metadata_file: str,
    digest_file: str,
    print_id: bool,
    observe: Callable[[Reads], None] | None = None,
) -> int:
    from pybuild.client import connect
    from pybuild.plugin.events import exit_code_of
    from pybuild.plugin.listening import Listeners
    from pybuild.progress import open_renderer

    # What an earlier build left must not pass for the result of one that fails
    if iidfile:
        Path(iidfile).unlink(missing_ok=True)
    if digest_file and os.path.isfile(digest_file):
        _write_in_place(digest_file, b"")
    with connect(inline=inline, start=True) as backend:
        last: Built | Failed | None = None
        with closing(open_renderer(mode, sys.stderr)) as renderer:
            events = backend.build(request, context)
            with closing(events), closing(Listeners()) as listeners:
                for event in events:
                    if isinstance(event, Built | Failed):
                        last = event
                    renderer.show(event)
                    listeners.tell(event)
                    if isinstance(event, Reads) and observe is not None:
                        observe(event)
                    if isinstance(event, ShellOpened | ShellEnded):
                        from pybuild.commands.failed_step import attend

                        attend(event, backend)
        if isinstance(last, Failed):
            return exit_code_of(last)
        if last is None:
            raise PybuildError("the build ended without a result")
        if to_stdout is not None:
            from pybuild.commands.output import standard_output

            more: dict[str, str] = {}
            if to_stdout.type == "tar" and last.source_date_epoch is not None:
                more["source-date-epoch"] = str(last.source_date_epoch)
            out = standard_output(f"an image as {to_stdout.type}")
            backend.export(last.image_id, to_stdout.type, out, {**more, **to_stdout.attrs})
            out.flush()
        for output in to_plugins:
            _to_plugin(output, last, backend)
    _write_results(last, iidfile, metadata_file, digest_file)
    if print_id:
        from pybuild.commands.output import write_line

        write_line(last.image_id)
    return ExitCode.OK


def _to_plugin(output: Output, built: Built, backend: "Backend") -> None:
    from pybuild.plugin.exporting import exporter, exporters

    plugin = exporters()[output.type]
    with exporter(plugin, built.image_id, built.tags, output.attrs) as out:
        backend.export(built.image_id, "oci", out, {})


def _write_in_place(path: str, data: bytes) -> None:
    """Write a file that may not be replaced, as Kubernetes' /dev/termination-log, on which another one is mounted."""
    try:
        with open(path, "wb") as out:
            out.write(data)
    except OSError as error:
        raise PybuildError(f"cannot write: {path}: {error.strerror}") from error


def _write_results(built: Built, iidfile: str, metadata_file: str, digest_file: str) -> None:
    if not iidfile and not metadata_file and not digest_file:
        return
    from pybuild.commands.output import as_json, new_file

    if iidfile:
        with new_file(Path(iidfile)) as out:
            out.write((_digest(built) if built.platforms else built.image_id).encode())
    if digest_file:
        _write_in_place(digest_file, built.digest.encode())
    if metadata_file:
        if built.platforms:
            metadata = {"containerimage.digest": _digest(built)}
        else:
            metadata = {"containerimage.config.digest": built.image_id}
            if built.digest:
                metadata["containerimage.digest"] = built.digest
        if built.tags:
            metadata["image.name"] = ",".join(built.tags)
        with new_file(Path(metadata_file)) as out:
            out.write(as_json(metadata, indent=2).encode() + b"\n")


def _digest(built: Built) -> str:
    """Return the digest of an index: the one its registry has, if it was pushed."""
    return built.digest or built.image_id


def _one_to_stdout(outputs: list[Output]) -> Output | None:
    found = [output for output in outputs if output.dest == "-"]
    if len(found) > 1:
        raise UsageError("only one --output can go to standard output")
    if found and sys.stdout.isatty():
        raise UsageError(
            f"an image as {found[0].type} will not be written to a terminal", "give dest=PATH, or redirect the output"
        )
    return found[0] if found else None


def _on_fail(wanted: bool, progress: str) -> str:
    """Return what becomes of a failed step: a shell takes somebody to use it, and a terminal to show both."""
    if not wanted:
        return ""
    return "shell" if os.isatty(0) and os.isatty(2) and progress != "json" else "keep"


def _directory(context: str) -> str:
    from pybuild.commands import given

    if given.is_remote(context):
        return context
    if not os.path.exists(context):
        raise UsageError(f"no such directory: {context}")
    if not os.path.isdir(context):
        raise UsageError(f"the context is no directory: {context}", "`-f` names a Dockerfile")
    return os.path.abspath(context)


def _dockerfile(file: str, context: str) -> str:
    if file in ("", "-"):
        return ""
    from pybuild.commands import given

    if context == "-" or given.is_remote(context):
        # A path inside of it
        return file
    if not os.path.exists(file):
        raise UsageError(f"no such Dockerfile: {file}")
    if os.path.isdir(file):
        raise UsageError(f"the Dockerfile is a directory: {file}")
    return os.path.abspath(file)


def _dockerfile_text(file: str, context: str) -> str | None:
    if file != "-":
        return None
    if context == "-":
        raise UsageError("Dockerfile and context cannot both come from standard input")
    if sys.stdin.isatty():
        raise UsageError("the Dockerfile is to come from standard input, which is a terminal")
    data = sys.stdin.buffer.read(MAX_DOCKERFILE + 1)
    if len(data) > MAX_DOCKERFILE:
        raise UsageError(f"the Dockerfile on standard input is over the limit of {MAX_DOCKERFILE} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError("the Dockerfile on standard input is not UTF-8") from error


def _check_parent(path: str) -> None:
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise UsageError(f"no such directory for the file: {path}")
    if os.path.isdir(path):
        raise UsageError(f"is a directory: {path}")


@contextmanager
def _context(context: str) -> Iterator[BinaryIO | None]:
    if context != "-":
        yield None
        return
    from pybuild.commands.output import input_file

    with input_file("-", "the context") as stream:
        yield stream
