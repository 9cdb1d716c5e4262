"""What a build is asked for. The same value travels to the daemon as JSON or straight into the engine."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pybuild.errors import UsageError


@dataclass(frozen=True, slots=True)
class Ulimit:
    """One `--ulimit NAME=SOFT[:HARD]`; -1 is unlimited."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Output:
    """One `--output`: `type` is oci, docker, tar or local.

    `dest` is an absolute host path, or "-" for the client's standard output. `attrs` are the other keys.
    """

    type: str
    dest: str
    attrs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What each RUN may use at most; 0 and "" are no limit.

    `memory` is in bytes, `memory_swap` memory and swap together (0: no swap, -1: as much as there is).
    `cpu_quota` is processor time in microseconds within each `cpu_period` (0: the usual 100000). With
    `best_effort` a limit that cannot be enforced is told, else it is an error.
    """

    memory: int = 0
    memory_swap: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    cpuset_cpus: str = ""
    pids: int = 0
    best_effort: bool = False


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Everything `pybuild build` was told.

    `context` is the absolute path of a directory read in place, or "" when the context is a tar stream
    that comes with the request. `dockerfile` is an absolute host path, a path inside a tar context, or
    "" for the default `Dockerfile`; `dockerfile_text` wins over it when not None (from standard input).
    `build_args` with value None are declared without a value. `no_cache_filter` names stages.
    `network` is private, host, none, or default: private where possible, else host. `shm_size` is in bytes, 0
    the default. `extra_hosts` are "name:ip", where "host-gateway" stands for the host's address.
    `ca_bundle` holds certificates as PEM that RUN trusts. `timeout` of the build and `step_timeout` of each RUN
    are in seconds, 0 is none.
    """

    context: str = ""
    dockerfile: str = ""
    dockerfile_text: str | None = None
    tags: tuple[str, ...] = ()
    build_args: dict[str, str | None] = field(default_factory=dict)
    target: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    network: str = "default"
    extra_hosts: tuple[str, ...] = ()
    shm_size: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    outputs: tuple[Output, ...] = ()
    platform: str = ""
    limits: Limits = field(default_factory=Limits)
    ca_bundle: str = ""
    timeout: float = 0.0
    step_timeout: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "BuildRequest":
        """Return the request in `data`; raise UsageError when it is malformed."""
        try:
            values = dict(data)
            for name in ("tags", "no_cache_filter", "extra_hosts"):
                values[name] = tuple(str(item) for item in values.get(name, ()))
            values["ulimits"] = tuple(Ulimit(**item) for item in values.get("ulimits", ()))
            values["outputs"] = tuple(Output(**item) for item in values.get("outputs", ()))
            values["limits"] = Limits(**values.get("limits", {}))
            for name in ("timeout", "step_timeout"):
                values[name] = float(values.get(name, 0))
            return BuildRequest(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"malformed build request: {error}") from error
