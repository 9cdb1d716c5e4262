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
class BuildRequest:
    """Everything `pybuild build` was told.

    `context` is the absolute path of a directory read in place, or "" when the context is a tar stream
    that comes with the request. `dockerfile` is an absolute host path, a path inside a tar context, or
    "" for the default `Dockerfile`; `dockerfile_text` wins over it when not None (from standard input).
    `build_args` with value None are declared without a value. `no_cache_filter` names stages.
    `root_emulation` is auto, off, fake or full.
    `shm_size` is in bytes, 0 the default. `extra_hosts` are "name:ip". `source_date_epoch` is in seconds.
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
    root_emulation: str = "auto"

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
            return BuildRequest(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"malformed build request: {error}") from error
