"""`POST /build` as Docker's classic builder speaks it: parameters in, stream objects out. No I/O."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, assert_never

from pybuild.api.events import (
    SENT_CONTEXT,
    Built,
    Checked,
    Described,
    Event,
    Failed,
    Failure,
    Notice,
    Planned,
    PlannedStep,
    Pulled,
    Pushed,
    Reads,
    ShellEnded,
    ShellOpened,
    StepDone,
    StepLog,
    StepMissed,
    StepStarted,
    Transfer,
)
from pybuild.api.request import BuildRequest, Limits, Output, Secret, Ulimit
from pybuild.daemon.answers import boolean, integer, json_parameter, with_hint
from pybuild.dockerfile.addresses import names_remote
from pybuild.errors import UsageError

NETWORKS = ("default", "private", "host", "none")


def request_from_query(query: Any) -> BuildRequest:
    """Return the request that the parameters of `POST /build` mean; raise UsageError.

    `query` is a multi-dict. null, empty strings and zeros mean "not given": compose sends every parameter.
    """
    _refuse_what_cannot_be(query)
    remote = query.get("remote") or ""
    if remote and not names_remote(remote):
        raise UsageError("parameter `remote` is not an address")
    arguments = json_parameter(query, "buildargs", {})
    return BuildRequest(
        context=remote,
        dockerfile=query.get("dockerfile") or "",
        tags=tuple(tag for tag in query.getall("t", []) if tag),
        build_args={str(name): None if value is None else str(value) for name, value in arguments.items()},
        target=query.get("target") or "",
        labels={str(name): str(value) for name, value in json_parameter(query, "labels", {}).items()},
        no_cache=boolean(query, "nocache"),
        pull="always" if boolean(query, "pull") else "missing",
        network=_network(query.get("networkmode") or "default"),
        extra_hosts=tuple(host for host in query.getall("extrahosts", []) if host),
        shm_size=integer(query, "shmsize"),
        ulimits=tuple(_ulimit(item) for item in json_parameter(query, "ulimits", [])),
        platform=query.get("platform") or "",
        limits=_limits(query),
        cache_from=tuple(Output("registry", "", {"ref": str(ref)}) for ref in json_parameter(query, "cachefrom", [])),
    )


def _refuse_what_cannot_be(query: Any) -> None:
    """Raise UsageError for what would mean something to Docker and means nothing here.

    rm and forcerm are about containers of steps, of which none is ever left: any value is right.
    """
    version = query.get("version") or "1"
    if version == "2":
        raise UsageError("BuildKit sessions are not supported: set DOCKER_BUILDKIT=0")
    if version != "1":
        raise UsageError(f"unknown version of the builder: {version[:200]}")
    if json_parameter(query, "outputs", []):
        raise UsageError("parameter `outputs` is for BuildKit: the image stays here, `save` gives an archive of it")
    if boolean(query, "squash"):
        raise UsageError("squash is only supported with experimental mode")
    if query.get("isolation", "") not in ("", "default") or query.get("securityopt"):
        raise UsageError("security options are not supported on linux")
    if integer(query, "cpushares"):
        raise UsageError("parameter `cpushares` has no meaning here: nothing shares with a build; cpuquota limits it")
    for name in ("cpusetmems", "cgroupparent"):
        if query.get(name):
            raise UsageError(f"parameter `{name}` is not supported: {query[name][:200]}")


def _limits(query: Any) -> Limits:
    # -1 is no limit
    unlimited = {name for name in ("memory", "memswap", "cpuquota") if query.get(name) == "-1"}
    memory, quota = (0 if name in unlimited else integer(query, name) for name in ("memory", "cpuquota"))
    swap = -1 if "memswap" in unlimited else integer(query, "memswap")
    return Limits(
        memory=memory,
        memory_swap=swap if memory else 0,
        cpu_quota=quota,
        cpu_period=integer(query, "cpuperiod") if quota else 0,
        cpuset_cpus=query.get("cpusetcpus") or "",
        # Docker's clients cannot ask for it, and a build that ran without limits is to run on
        best_effort=True,
    )


def _network(mode: str) -> str:
    if mode == "bridge":
        return "default"
    if mode not in NETWORKS:
        raise UsageError(f"unknown network mode: {mode}", f"known: {', '.join(NETWORKS)}")
    return mode


def _ulimit(item: Any) -> Ulimit:
    try:
        return Ulimit(str(item["Name"]), int(item["Soft"]), int(item["Hard"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"parameter `ulimits` holds no ulimit: {item!r:.200}") from error


class DockerStream:
    """Turns events into the objects of Docker's stream. With `quiet` only the image id, or the error, comes out."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._steps: tuple[PlannedStep, ...] = ()
        self._held: list[dict[str, Any]] = []

    def objects(self, event: Event) -> list[dict[str, Any]]:
        """Return the objects that tell `event`."""
        objects = self._objects(event)
        if not self._quiet:
            return objects
        if isinstance(event, Built):
            return [{"stream": f"{event.image_id}\n"}]
        if isinstance(event, Failed):
            return [*self._held, *objects]
        # A failure is told with the output before it; what a verbose RUN says must not pile up
        self._held = [*self._held, *objects][-1000:]
        return []

    def _objects(self, event: Event) -> list[dict[str, Any]]:
        match event:
            case Planned():
                self._steps = event.steps
                return []
            case StepStarted():
                text = self._instruction(event.step)
                return [_stream(f"Step {event.step + 1}/{len(self._steps)} : {text}"), _stream("\n")]
            case StepLog():
                red = event.stream == "stderr"
                return [_stream(f"\x1b[91m{event.text}\x1b[0m" if red else event.text)]
            case StepMissed():
                return []
            case StepDone():
                return [_stream(" ---> Using cache\n")] if event.cached and not self._is_from(event.step) else []
            case Transfer():
                if event.step < 0 and event.label == SENT_CONTEXT:
                    # Who sends it counts by himself
                    return []
                if event.step < 0:
                    return [progress_object(event, "Downloading", "Pull complete")]
                detail = {"current": event.current, "total": event.total}
                return [{"status": event.label, "progressDetail": detail, "id": str(event.step)}]
            case Notice():
                told = f"{event.rule}: {event.message} (line {event.line})" if event.rule else event.message
                return [_stream(f"[{event.level.capitalize()}] {told}\n")]
            case Built():
                short = event.image_id.removeprefix("sha256:")[:12]
                return [
                    {"aux": {"ID": event.image_id}},
                    _stream(f"Successfully built {short}\n"),
                    *(_stream(f"Successfully tagged {tag}\n") for tag in event.tags),
                ]
            case Failed():
                return [error_object(event.failure)]
            case ShellOpened() | ShellEnded() | Checked() | Pulled() | Pushed() | Described() | Reads():
                # Docker's parameters cannot ask for it
                return []
            case _ as unreachable:
                assert_never(unreachable)

    def _instruction(self, step: int) -> str:
        label = self._steps[step].label if 0 <= step < len(self._steps) else "?"
        # "[build 2/4] RUN make": Docker shows the instruction alone
        return label.partition("] ")[2] if label.startswith("[") else label

    def _is_from(self, step: int) -> bool:
        # That a base is here is no hit: who counts hits counts instructions
        return self._instruction(step).upper().startswith("FROM ")


def progress_object(event: Transfer, doing: str, done: str) -> dict[str, Any]:
    """Return an object that clients draw as a bar: its id is the last word of the label, the layer's short digest."""
    ended = event.current == event.total
    # Where there is no terminal, clients print what has no counts and leave out the rest
    detail = {} if ended else {"current": event.current, "total": event.total}
    return {"status": done if ended else doing, "progressDetail": detail, "id": event.label.rpartition(" ")[2]}


def error_object(failure: Failure) -> dict[str, Any]:
    """Return the last object of a stream that failed."""
    message = f"{failure.file}:{failure.line}: {failure.message}" if failure.file and failure.line else failure.message
    detail: dict[str, Any] = {}
    if failure.status > 0:
        # People and programs look for these words
        told = f"returned a non-zero code: {failure.status}"
        if told not in message:
            message = f"{message}: {told}"
        detail["code"] = failure.status
    else:
        message = with_hint(message, failure.hint)
    return {"errorDetail": {**detail, "message": message}, "error": message}


def _stream(text: str) -> dict[str, Any]:
    return {"stream": text}


def reference_of(query: Mapping[str, str]) -> str:
    """Return the name in `repo` and `tag`; `repo` may hold the tag itself, as our own client sends it."""
    repo, tag = query.get("repo") or "", query.get("tag") or ""
    if not repo:
        raise UsageError("parameter `repo` is missing")
    return f"{repo}:{tag}" if tag else repo


def given(headers: Mapping[str, str], domain: str) -> dict[str, Secret]:
    """Return the credentials in X-Registry-Auth, for a registry, or in X-Registry-Config, for several; UsageError."""
    one = _decoded(headers.get("X-Registry-Auth", ""), "X-Registry-Auth")
    found = {domain: one} if one and domain else {}
    for host, entry in _decoded(headers.get("X-Registry-Config", ""), "X-Registry-Config").items():
        found[str(host)] = entry
    return {host: Secret(json.dumps(entry).encode()) for host, entry in found.items()}


def _decoded(text: str, what: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise UsageError(f"malformed header: {what}") from error
    if not isinstance(value, dict):
        raise UsageError(f"malformed header: {what}")
    return value
