"""What a build is asked for. The same value travels to the daemon as JSON or straight into the engine.

Named tuples, as events are: the client makes these classes at every start.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pybuild.errors import UsageError

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Ulimit(NamedTuple):
    """One `--ulimit NAME=SOFT[:HARD]`; -1 is unlimited."""

    name: str
    soft: int
    hard: int


class Output(NamedTuple):
    """One `--output`: `type` is oci, docker, tar, local or registry.

    `dest` is an absolute host path, or "-" for the client's standard output; a registry has none. `attrs` are the other
    keys.
    """

    type: str
    dest: str
    attrs: Mapping[str, str] = _NOTHING


class Limits(NamedTuple):
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


class Secret:
    """The value of a `--secret`. It shows itself nowhere: whoever wants the value asks for it."""

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return "Secret(****)"


class Agent(NamedTuple):
    """One `--ssh`: `paths` are absolute ones of one agent's socket, or of private keys."""

    id: str
    paths: tuple[str, ...]


class Registries(NamedTuple):
    """How registries are reached.

    `environment` are those variables of the user's that say where settings and credentials are. `insecure` are
    registries, as host or host:port, that need not prove who they are. `realms` are addresses of token servers that are
    told the credentials of a registry, by its host. `given` are credentials that came with the request, by host: JSON
    as docker's clients send it. They win over those that are kept.
    """

    environment: Mapping[str, str] = _NOTHING
    insecure: tuple[str, ...] = ()
    realms: Mapping[str, str] = _NOTHING
    given: Mapping[str, Secret] = _NOTHING

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "environment": dict(self.environment),
            "insecure": list(self.insecure),
            "realms": dict(self.realms),
            "given": {host: secret.value.hex() for host, secret in self.given.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Registries":
        """Return the value in `data`; raise ValueError and its like when it is malformed."""
        environment, realms = (
            {str(key): str(value) for key, value in data.get(name, {}).items()} for name in ("environment", "realms")
        )
        insecure = tuple(str(host) for host in data.get("insecure", ()))
        return Registries(environment, insecure, realms, _secrets(data.get("given", {})))


class BuildRequest(NamedTuple):
    """Everything `pybuild build` was told.

    `context` is the absolute path of a directory read in place, "" when the context is a tar stream that comes with
    the request, else an address (`dockerfile/remotes.py`). `dockerfile` is an absolute host path, a path inside of a
    context that is streamed or fetched, or "" for the default `Dockerfile`; `dockerfile_text` wins over it when not
    None (from standard input, or from another machine: then `dockerfile` is what messages call it). `ignore_text` is
    the content of an ignore file that wins over those of the context, when not None.
    `build_args` with value None are declared without a value. `no_cache_filter` names stages.
    `network` is private, host, none, or default: private where possible, else host. `shm_size` is in bytes, 0
    the default. `extra_hosts` are "name:ip", where "host-gateway" stands for the host's address.
    `ca_bundle` holds certificates as PEM that RUN trusts. `timeout` of the build and `step_timeout` of each RUN
    are in seconds, 0 is none. `root_emulation` is auto, off, fake or full. `snapshotter` is auto, overlay or copy, or
    "" for what PYBUILD_SNAPSHOTTER says where it is built. `secrets` are by id. `allow` are names of `entitlements`.
    `on_fail` says what becomes of the tree of a RUN that fails: "" nothing, "keep" for `pybuild shell`, "shell" opens
    one there and then on a terminal of kind `term`, with `shell_command` if that is not empty; what is not gone on with
    is kept. `call` is "build", or "check": then the Dockerfile is only looked at. `proxies` are variables such as
    HTTP_PROXY for what the build itself fetches; those among `build_args` win. `max_download` is the most bytes of one
    file that is fetched, 0 the default. With `rewrite_timestamp` no time in the layers that are built is later than
    SOURCE_DATE_EPOCH. With `watch` the build tells what it reads of the context. `max_size` is the most bytes the store
    takes after the build, `min_free` what it leaves free on its disk; 0 is none. `build_contexts` are named contexts:
    absolute paths of directories, addresses, `docker-image://NAME`, `oci-layout://PATH[:TAG][@DIGEST]`, `target:STAGE`.
    Without `remembers` results of steps do not enter the cache.
    `cache_from` and `cache_to` are where results are taken from and given to: type local with a directory as `dest`,
    inline (to) for the image's own config, registry (from) with an image of the store as `ref`.
    `isolation` is auto, namespaces or chroot, or "" for what PYBUILD_ISOLATION says where it is built.
    `pull` says when images are asked for at their registry: always, if they are missing here, or never.
    """

    context: str = ""
    dockerfile: str = ""
    dockerfile_text: str | None = None
    ignore_text: str | None = None
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str | None] = _NOTHING
    target: str = ""
    labels: Mapping[str, str] = _NOTHING
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    network: str = "default"
    extra_hosts: tuple[str, ...] = ()
    shm_size: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    outputs: tuple[Output, ...] = ()
    platform: str = ""
    limits: Limits = Limits()
    ca_bundle: str = ""
    timeout: float = 0.0
    step_timeout: float = 0.0
    root_emulation: str = "auto"
    snapshotter: str = ""
    isolation: str = ""
    secrets: Mapping[str, Secret] = _NOTHING
    ssh: tuple[Agent, ...] = ()
    allow: tuple[str, ...] = ()
    on_fail: str = ""
    shell_command: tuple[str, ...] = ()
    term: str = ""
    call: str = "build"
    proxies: Mapping[str, str] = _NOTHING
    max_download: int = 0
    build_contexts: Mapping[str, str] = _NOTHING
    rewrite_timestamp: bool = False
    watch: bool = False
    max_size: int = 0
    min_free: int = 0
    remembers: bool = True
    cache_from: tuple[Output, ...] = ()
    cache_to: tuple[Output, ...] = ()
    pull: str = "missing"
    registries: Registries = Registries()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **self._asdict(),
            "proxies": dict(self.proxies),
            "build_contexts": dict(self.build_contexts),
            "build_args": dict(self.build_args),
            "labels": dict(self.labels),
            "ulimits": [limit._asdict() for limit in self.ulimits],
            "limits": self.limits._asdict(),
            **{
                name: [{**output._asdict(), "attrs": dict(output.attrs)} for output in getattr(self, name)]
                for name in ("outputs", "cache_from", "cache_to")
            },
            "secrets": {name: secret.value.hex() for name, secret in self.secrets.items()},
            "ssh": [agent._asdict() for agent in self.ssh],
            "registries": self.registries.to_json(),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> "BuildRequest":
        """Return the request in `data`; raise UsageError when it is malformed."""
        try:
            values = dict(data)
            for name in ("tags", "no_cache_filter", "extra_hosts", "allow", "shell_command"):
                values[name] = tuple(str(item) for item in values.get(name, ()))
            values["ulimits"] = tuple(Ulimit(**item) for item in values.get("ulimits", ()))
            for name in ("outputs", "cache_from", "cache_to"):
                values[name] = tuple(Output(**item) for item in values.get(name, ()))
            values["limits"] = Limits(**values.get("limits", {}))
            values["ssh"] = tuple(
                Agent(str(item["id"]), tuple(str(path) for path in item["paths"])) for item in values.get("ssh", ())
            )
            for name in ("proxies", "build_contexts"):
                values[name] = {str(key): str(value) for key, value in values.get(name, {}).items()}
            values["secrets"] = _secrets(values.get("secrets", {}))
            values["registries"] = Registries.from_json(values.get("registries", {}))
            for name in ("timeout", "step_timeout"):
                values[name] = float(values.get(name, 0))
            return BuildRequest(**values)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise UsageError(f"malformed build request: {error}") from error


def _secrets(data: Mapping[str, Any]) -> dict[str, Secret]:
    """Return the secrets; what is said of malformed ones quotes nothing."""
    try:
        return {str(name): Secret(bytes.fromhex(value)) for name, value in data.items()}
    except (TypeError, ValueError, AttributeError):
        raise UsageError("malformed build request: secrets") from None


class ShellRequest(NamedTuple):
    """Everything `pybuild shell` was told.

    `name` is that of an image or of a kept tree. `command` empty is a shell. `env` comes on top of the image's or
    the step's; `user`, `workdir` and `network` take the place of theirs when not "". With `terminal` it runs on one,
    of kind `term`, else on three pipes. `proxies` are variables that are never kept.
    """

    name: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = _NOTHING
    user: str = ""
    workdir: str = ""
    network: str = ""
    terminal: bool = False
    term: str = ""
    proxies: Mapping[str, str] = _NOTHING
    root_emulation: str = "auto"
    snapshotter: str = ""
    isolation: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**self._asdict(), "env": dict(self.env), "proxies": dict(self.proxies)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "ShellRequest":
        """Return the request in `data`; raise UsageError when it is malformed."""
        try:
            values = dict(data)
            values["command"] = tuple(str(word) for word in values.get("command", ()))
            for name in ("env", "proxies"):
                values[name] = {str(key): str(value) for key, value in values.get(name, {}).items()}
            return ShellRequest(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"malformed request of a shell: {error}") from error


class PullRequest(NamedTuple):
    """Everything `pybuild pull` was told.

    `platform` is "" for that of this machine. With `all_tags` the names are of repositories, all of whose tags come.
    `proxies` and `registries` are as in a build.
    """

    names: tuple[str, ...]
    platform: str = ""
    proxies: Mapping[str, str] = _NOTHING
    registries: Registries = Registries()
    all_tags: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**self._asdict(), "proxies": dict(self.proxies), "registries": self.registries.to_json()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "PullRequest":
        """Return the request in `data`; raise UsageError when it is malformed."""
        try:
            values = dict(data)
            values["names"] = tuple(str(name) for name in values["names"])
            values["proxies"] = {str(name): str(value) for name, value in values.get("proxies", {}).items()}
            values["registries"] = Registries.from_json(values.get("registries", {}))
            return PullRequest(**values)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise UsageError(f"malformed request to pull: {error}") from error


class PushRequest(NamedTuple):
    """Everything `pybuild push` was told.

    With `all_tags` the names are of repositories, all of whose tags go. `compression` is gzip, zstd, none, or "" for
    gzip but whatever form is here already; `level` is "" for the usual one. `proxies` and `registries` are as in a
    build. The one image of `names` goes under the name `destination`, if that is not "". With `by_digest` those of
    `names`, which may be ids, go to the repository of `destination` without a tag.
    """

    names: tuple[str, ...]
    all_tags: bool = False
    compression: str = ""
    level: str = ""
    proxies: Mapping[str, str] = _NOTHING
    registries: Registries = Registries()
    destination: str = ""
    by_digest: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**self._asdict(), "proxies": dict(self.proxies), "registries": self.registries.to_json()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "PushRequest":
        """Return the request in `data`; raise UsageError when it is malformed."""
        try:
            values = dict(data)
            values["names"] = tuple(str(name) for name in values["names"])
            values["proxies"] = {str(name): str(value) for name, value in values.get("proxies", {}).items()}
            values["registries"] = Registries.from_json(values.get("registries", {}))
            return PushRequest(**values)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise UsageError(f"malformed request to push: {error}") from error


class ManifestRequest(NamedTuple):
    """Everything `pybuild manifest` was told, but to push.

    `action` is inspect, create (an index of `images`; with `amend` they come to one that is there) or annotate (the one
    of `images`). `platform` are fields of a descriptor's platform, `annotations` those of the index, or of the image
    that is annotated. With `remote` the registry is asked though the name is here; `verbose` asks for the manifests of
    an index as well. `proxies` and `registries` are as in a build.
    """

    action: str
    name: str
    images: tuple[str, ...] = ()
    amend: bool = False
    verbose: bool = False
    remote: bool = False
    platform: Mapping[str, Any] = _NOTHING
    annotations: Mapping[str, str] = _NOTHING
    proxies: Mapping[str, str] = _NOTHING
    registries: Registries = Registries()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        maps = {name: dict(getattr(self, name)) for name in ("platform", "annotations", "proxies")}
        return {**self._asdict(), **maps, "registries": self.registries.to_json()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "ManifestRequest":
        """Return the request in `data`; raise UsageError when it is malformed."""
        try:
            values = dict(data)
            values["images"] = tuple(str(name) for name in values.get("images", ()))
            values["platform"] = dict(values.get("platform", {}))
            for name in ("annotations", "proxies"):
                values[name] = {str(key): str(value) for key, value in values.get(name, {}).items()}
            values["registries"] = Registries.from_json(values.get("registries", {}))
            return ManifestRequest(**values)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise UsageError(f"malformed request about manifests: {error}") from error
