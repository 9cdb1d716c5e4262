"""`RUN --mount` in effect: what each mount reads, and where it appears."""

import posixpath
from collections.abc import Callable, Mapping, Sequence

from pybuild.dockerfile.errors import InvalidValueError
from pybuild.dockerfile.instructions import Run
from pybuild.dockerfile.mounts import Mount, MountType, parse_mount, source_name
from pybuild.plan.ops import (
    BindMount,
    CacheMount,
    CopySource,
    FromContext,
    FromScratch,
    MountSource,
    RunMount,
    SecretMount,
    SshMount,
    TmpfsMount,
)
from pybuild.plan.text import Text

SCRATCH = "scratch"
SSH_TARGET = "/run/buildkit/ssh_agent.{}"
SSH_VARIABLE = "SSH_AUTH_SOCK"
HIDDEN = "****"
"""What the history shows for a build argument that a secret takes the place of."""


def sources(run: Run, text: Text, find: Callable[[str], CopySource]) -> tuple[MountSource | None, ...]:
    """Return what the `from` of each mount means, None for one without; `find` looks a name up.

    Raises DockerfileError.
    """
    found: list[MountSource | None] = []
    for mount in run.mounts:
        name = text.checked(source_name, mount, run.span)
        found.append(None if not name else FromScratch() if name.lower() == SCRATCH else find(name))
    return tuple(found)


def lower(
    run: Run,
    found: Sequence[MountSource | None],
    text: Text,
    values: Mapping[str, str],
    cwd: str,
    namespace: str,
) -> tuple[RunMount, ...]:
    """Return the mounts of a RUN in the order they are written.

    `found` is what `sources` gave, `values` are the variables, `namespace` goes before the ids of caches. Raises
    DockerfileError.
    """
    mounts: list[RunMount] = []
    agents = 0
    for written, source in zip(run.mounts, found, strict=True):

        def read(written: str, agents: int = agents, source: MountSource | None = source) -> RunMount:
            mount = parse_mount(written, lambda value: text.expand(value, values, run.span))
            return _lower(mount, source, cwd, namespace, agents)

        mount = text.checked(read, written, run.span)
        agents += isinstance(mount, SshMount)
        mounts.append(mount)
    return tuple(mounts)


def variables(mounts: Sequence[RunMount], env: Mapping[str, str]) -> dict[str, str]:
    """Return what the mounts add to the environment `env`: where the first agent listens."""
    agents = [mount.target for mount in mounts if isinstance(mount, SshMount)]
    return {SSH_VARIABLE: agents[0]} if agents and SSH_VARIABLE not in env else {}


def masked(declared: Sequence[str], mounts: Sequence[RunMount]) -> list[str]:
    """Return build arguments as the history shows them, without values a secret takes the place of."""
    secret = {mount.env for mount in mounts if isinstance(mount, SecretMount) and mount.env}
    names = [item.partition("=")[0] for item in declared]
    return [f"{name}={HIDDEN}" if name in secret else item for name, item in zip(names, declared, strict=True)]


def _lower(mount: Mount, source: MountSource | None, cwd: str, namespace: str, agents: int) -> RunMount:
    target = _absolute(mount.target, cwd)
    match mount.type:
        case MountType.BIND:
            return BindMount(target, source or FromContext(), _inside(mount.source), mount.read_only)
        case MountType.CACHE:
            return CacheMount(
                target=target,
                # As written: a target below WORKDIR makes another id than the same one in full
                id=f"{namespace}/{mount.id or posixpath.normpath(mount.target)}",
                sharing=mount.sharing,
                source=None if isinstance(source, FromScratch) else source,
                path=_inside(mount.source),
                read_only=mount.read_only,
                mode=mount.mode,
                uid=mount.uid,
                gid=mount.gid,
            )
        case MountType.TMPFS:
            return TmpfsMount(target, mount.size or 0, mount.read_only)
        case MountType.SECRET:
            return SecretMount(
                id=mount.id or "",
                target=target,
                env=mount.env or "",
                required=mount.required,
                mode=mount.mode & 0o777,
                uid=mount.uid,
                gid=mount.gid,
            )
        case MountType.SSH:
            return SshMount(
                id=mount.id or "default",
                target=target or SSH_TARGET.format(agents),
                required=mount.required,
                mode=mount.mode & 0o777,
                uid=mount.uid,
                gid=mount.gid,
            )


def _absolute(target: str, cwd: str) -> str:
    """Return where a target is, "" for none; raise InvalidValueError for the root."""
    if not target:
        return ""
    path = posixpath.normpath(posixpath.join("/", cwd, target))
    # Two slashes at the front are kept by normpath
    path = "/" + path.lstrip("/")
    if path == "/":
        raise InvalidValueError(f"invalid mount target: {target}", "mount on a directory below the root")
    return path


def _inside(source: str) -> str:
    """Return a source relative to the root of what it is in, "" for all of it."""
    return posixpath.normpath(posixpath.join("/", source)).strip("/")
