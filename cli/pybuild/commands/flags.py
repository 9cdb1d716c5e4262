"""Values of build options: text to what a request holds. Every function raises UsageError in one line."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pybuild.api.request import Limits, Output, Ulimit
from pybuild.errors import PybuildError, UsageError
from pybuild.progress.amounts import parse_size

OUTPUT_TYPES = ("oci", "docker", "tar", "local", "image", "registry")
LIMITS = ("strict", "best-effort")
MIN_MEMORY = 6 << 20
"""Least that --memory takes, as with docker; less would not start a program."""

MAX_BUNDLE = 4 << 20
"""Largest file of certificates, in bytes."""

_PERIOD = 100_000
NETWORKS = ("default", "private", "host", "none")
ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"),
    *("rtprio", "rttime", "sigpending", "stack"),
)


def size(text: str, option: str) -> int:
    """Return a size in bytes, see `parse_size`."""
    found = parse_size(text)
    if found is None:
        raise UsageError(f"invalid size for {option}: {text}", "write for example `64m`")
    return found


def ulimit(text: str) -> Ulimit:
    """Return `NAME=SOFT[:HARD]`; -1 or `unlimited` is no limit."""
    name, equals, values = text.partition("=")
    if name not in ULIMITS:
        raise UsageError(f"unknown limit for --ulimit: {name}", f"known: {', '.join(ULIMITS)}")
    soft_text, _, hard_text = values.partition(":")
    try:
        soft = _limit(soft_text)
        hard = _limit(hard_text) if hard_text else soft
    except ValueError:
        equals = ""
    if not equals:
        raise UsageError(f"--ulimit is NAME=SOFT[:HARD], not: {text}")
    if hard != -1 and (soft == -1 or soft > hard):
        raise UsageError(f"the soft limit is above the hard one: {text}")
    return Ulimit(name, soft, hard)


def _limit(text: str) -> int:
    if text == "unlimited":
        return -1
    value = int(text)
    if value < -1:
        raise ValueError(text)
    return value


def build_args(given: Sequence[str], environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return `NAME=VALUE` and `NAME` options; the latter take their value from `environ`, None when it has none.

    `SOURCE_DATE_EPOCH` of the environment is passed on even unasked, as buildx does.
    """
    values: dict[str, str | None] = {}
    if environ.get("SOURCE_DATE_EPOCH"):
        values["SOURCE_DATE_EPOCH"] = environ["SOURCE_DATE_EPOCH"]
    for item in given:
        name, equals, value = item.partition("=")
        if not name or name != name.strip():
            raise UsageError(f"--build-arg is NAME=VALUE or NAME, not: {item}")
        values[name] = value if equals else environ.get(name)
    return values


def labels(given: Sequence[str]) -> dict[str, str]:
    """Return `KEY=VALUE` options; `KEY` alone has an empty value."""
    values: dict[str, str] = {}
    for item in given:
        key, _, value = item.partition("=")
        if not key.strip():
            raise UsageError(f"--label is KEY=VALUE, not: {item}")
        values[key] = value
    return values


def add_host(text: str) -> str:
    """Return `NAME:IP` (or `NAME=IP`, `NAME:[IPv6]`) as "name:ip"; the address `host-gateway` is worked out later."""
    import ipaddress

    match = re.fullmatch(r"([^:=\s]+)[:=](\S+)", text)
    if match is None:
        raise UsageError(f"--add-host is NAME:IP, not: {text}")
    address = match[2]
    if address == "host-gateway":
        return f"{match[1]}:{address}"
    address = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise UsageError(f"invalid address for --add-host: {text}") from error
    return f"{match[1]}:{address}"


def network(text: str) -> str:
    """Return the network mode; `bridge` is docker's name of its default."""
    if text == "bridge":
        return "default"
    if text not in NETWORKS:
        raise UsageError(f"unknown network for --network: {text}", f"known: {', '.join(NETWORKS)}")
    return text


def output(text: str, directory: Path) -> Output:
    """Return `type=TYPE[,dest=PATH][,KEY=VALUE...]` (CSV), or a bare directory (type local) or `-` (a tar).

    `dest` is made absolute from `directory`; without one it is standard output, but for type local.
    """
    import csv

    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise UsageError(f"--output is TYPE[,KEY=VALUE...] as CSV, not: {text}") from error
    if len(fields) == 1 and "=" not in fields[0]:
        if not fields[0]:
            raise UsageError("--output is empty")
        attributes = {"type": "tar", "dest": "-"} if text == "-" else {"type": "local", "dest": fields[0]}
    else:
        attributes = {}
        for item in fields:
            key, equals, value = item.partition("=")
            key = key.strip().lower()
            if not equals or not key:
                raise UsageError(f"--output wants KEY=VALUE, not: {item}")
            attributes[key] = value
    kind = attributes.pop("type", "")
    if kind in ("image", "registry"):
        if "dest" in attributes:
            hint = "the image's names say where it goes" if kind == "registry" else "`type=oci` is for files"
            raise UsageError(f"--output type={kind} has no dest: {text}", hint)
        return Output(kind, "", attributes)
    if kind not in OUTPUT_TYPES:
        from pybuild.plugin.exporting import exporters, known_exporter

        if known_exporter(kind):
            return Output(kind, "", attributes)
        told = f"unknown type for --output: {kind}" if kind else f"--output has no type: {text}"
        raise UsageError(told, f"known: {', '.join([*OUTPUT_TYPES, *exporters()])}")
    destination = attributes.pop("dest", "" if kind == "local" else "-")
    if kind == "local" and destination in ("", "-"):
        raise UsageError(f"--output type=local wants dest=DIRECTORY: {text}")
    if not destination:
        raise UsageError(f"--output has an empty dest: {text}")
    if destination != "-":
        path = directory / destination
        if kind != "local" and path.is_dir():
            raise UsageError(f"the dest of --output is a directory: {destination}")
        if kind == "local" and path.exists() and not path.is_dir():
            raise UsageError(f"the dest of --output is no directory: {destination}")
        destination = os.path.abspath(path)
    return Output(kind, destination, attributes)


def images(outputs: Sequence[Output]) -> tuple[list[Output], list[str]]:
    """Return outputs without those of type image, and the names that these give to the image in the store.

    There every image is kept. With `push=true`, as buildx has it, one goes to its registry too. Its layers are
    compressed only then, and unpacked when a step needs them.
    """
    others: list[Output] = []
    names: list[str] = []
    for item in outputs:
        if item.type != "image":
            others.append(item)
            continue
        attributes = {key: value for key, value in item.attrs.items() if key not in ("push", "unpack", "store")}
        is_pushed, _ = _truth(item, "push"), _truth(item, "unpack")
        if not _truth(item, "store", "true"):
            raise UsageError("an image of --output type=image is always kept: store=false", "use type=registry")
        names += [tag(name.strip(), "--output") for name in attributes.get("name", "").split(",") if name.strip()]
        if is_pushed:
            others.append(Output("registry", "", attributes))
        else:
            _check_pushable(attributes)
    return others, names


def _check_pushable(attributes: Mapping[str, str]) -> None:
    """Raise UsageError for what could not be meant if the image were pushed: the next time it may be."""
    from pybuild.engine.exporting import PUSH_KEYS
    from pybuild.engine.pushing import form_of

    known = ("rewrite-timestamp", *PUSH_KEYS)
    for key in attributes:
        if key not in known:
            told = ", ".join((*known, "push", "store", "unpack"))
            raise UsageError(f"unknown key of --output: {key}", f"known of type=image: {told}")
    form_of(attributes.get("compression", ""), attributes.get("compression-level"))


def _truth(output: Output, key: str, default: str = "false") -> bool:
    value = output.attrs.get(key, default).lower()
    if value not in ("true", "false", "1", "0"):
        raise UsageError(f"{key} of --output is true or false, not: {value}")
    return value in ("true", "1")


def rewrites(output: Output) -> bool:
    """Return whether an output asks for times that are not later than SOURCE_DATE_EPOCH."""
    return _truth(output, "rewrite-timestamp")


def by_platform(output: Output, build_args: Mapping[str, str | None]) -> Output:
    """Return the output with an index of platforms around the image, if BUILDKIT_MULTI_PLATFORM asks for that."""
    wanted = (build_args.get("BUILDKIT_MULTI_PLATFORM") or "").lower() in ("1", "true")
    if not wanted or output.type != "oci":
        return output
    return output._replace(attrs={**output.attrs, "multi-platform": "true"})


def emulation(text: str) -> str:
    """Return how root is emulated."""
    known = ("auto", "off", "fake", "full")
    if text not in known:
        raise UsageError(f"unknown emulation of root: {text}", f"known: {', '.join(known)}")
    return text


def snapshotter(text: str, settings: Mapping[str, object]) -> str:
    """Return what RUN steps stand on: by an option, else PYBUILD_SNAPSHOTTER, else the settings; "" if none says."""
    return _chosen(text, "snapshotter", ("auto", "overlay", "copy"), settings)


def isolation(text: str, settings: Mapping[str, object]) -> str:
    """Return how RUN steps are kept apart: by an option, else PYBUILD_ISOLATION, else the settings; "" if none says."""
    return _chosen(text, "isolation", ("auto", "namespaces", "chroot"), settings)


def _chosen(text: str, name: str, known: tuple[str, ...], settings: Mapping[str, object]) -> str:
    chosen = text or os.environ.get(f"PYBUILD_{name.upper()}") or settings.get(name, "")
    if chosen and chosen not in known:
        raise UsageError(f"unknown {name}: {chosen}", f"known: {', '.join(known)}")
    return str(chosen)


def words(text: str, option: str) -> tuple[str, ...]:
    """Return a command line as words, quoted as a shell has it."""
    if not text:
        return ()
    import shlex

    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"invalid command for {option}: {text}: {str(error).lower()}") from error


def tag(text: str, option: str = "--tag") -> str:
    """Return a name for the image, checked."""
    from pybuild.oci.reference import parse_reference

    try:
        parse_reference(text)
    except PybuildError as error:
        raise UsageError(f"invalid name for {option}: {error.message}", error.hint) from error
    return text


def limits(
    memory: str,
    memory_swap: str,
    cpus: str,
    cpu_quota: int,
    cpu_period: int,
    cpuset_cpus: str,
    pids_limit: int,
    mode: str,
) -> Limits:
    """Return the limits of RUN; "", 0 and, for processes, -1 stand for none."""
    if mode not in LIMITS:
        raise UsageError(f"unknown value for --limits: {mode}", f"known: {', '.join(LIMITS)}")
    most = size(memory, "--memory") if memory else 0
    if memory and most < MIN_MEMORY:
        raise UsageError(f"--memory is at least {MIN_MEMORY >> 20}m, not: {memory}")
    swap = -1 if memory_swap == "-1" else size(memory_swap, "--memory-swap") if memory_swap else 0
    if swap and not most:
        raise UsageError("--memory-swap needs --memory")
    if 0 < swap < most:
        raise UsageError(f"--memory-swap is memory and swap together, so not less than --memory: {memory_swap}")
    if cpus and (cpu_quota or cpu_period):
        raise UsageError("--cpus stands for --cpu-quota and --cpu-period: give it alone")
    if cpus:
        cpu_quota, cpu_period = _quota(cpus), _PERIOD
    if cpu_period and not 1000 <= cpu_period <= 1_000_000:
        raise UsageError(f"--cpu-period is from 1000 to 1000000 microseconds, not: {cpu_period}")
    if cpu_quota == -1:
        cpu_quota = 0
    if cpu_quota and cpu_quota < 1000:
        raise UsageError(f"--cpu-quota is at least 1000 microseconds, not: {cpu_quota}")
    if cpuset_cpus and not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", cpuset_cpus):
        raise UsageError(f"--cpuset-cpus is such as 0-2,4, not: {cpuset_cpus}")
    if pids_limit < -1:
        raise UsageError(f"invalid --pids-limit: {pids_limit}")
    return Limits(
        memory=most,
        memory_swap=swap,
        cpu_quota=cpu_quota,
        cpu_period=cpu_period if cpu_quota else 0,
        cpuset_cpus=cpuset_cpus,
        pids=max(0, pids_limit),
        best_effort=mode == "best-effort",
    )


def _quota(cpus: str) -> int:
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", cpus) or not 0.01 <= float(cpus) <= 1e6:
        raise UsageError(f"--cpus is a number of processors from 0.01 on, such as 1.5, not: {cpus}")
    return round(float(cpus) * _PERIOD)


def duration(text: str, option: str) -> float:
    """Return `90`, `90s`, `1h30m` in seconds."""
    if not text:
        return 0.0
    from pybuild.dockerfile.durations import NANOSECONDS, parse_duration

    try:
        seconds = parse_duration(f"{text}s" if text.isdigit() else text) / NANOSECONDS["s"]
    except PybuildError as error:
        raise UsageError(f"invalid duration for {option}: {text}", "write for example `90s` or `1h30m`") from error
    if seconds <= 0 or seconds > 1e7:
        raise UsageError(f"{option} is more than nothing and less than 100 days: {text}")
    return seconds


def ca_bundle(path: str) -> str:
    """Return the certificates in a file, checked."""
    if not path:
        return ""
    import ssl

    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BUNDLE + 1)
    except OSError as error:
        raise UsageError(f"cannot read the file of --ca-bundle: {path}: {error.strerror}") from error
    if len(data) > MAX_BUNDLE:
        raise UsageError(f"the file of --ca-bundle is over the limit of {MAX_BUNDLE} bytes: {path}")
    if b"PRIVATE KEY-----" in data:
        raise UsageError(f"the file of --ca-bundle holds a private key: {path}", "give the certificates alone")
    try:
        text = data.decode()
        # Comments may hold what ASCII cannot, the certificates do not
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii", "ignore"))
    except (ValueError, ssl.SSLError) as error:
        raise UsageError(
            f"the file of --ca-bundle holds no certificates as PEM: {path}",
            "it has lines `-----BEGIN CERTIFICATE-----`; `openssl x509 -inform der` makes them of a DER file",
        ) from error
    return text
