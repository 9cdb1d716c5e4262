"""The planned work, as values."""

from collections.abc import Mapping

import msgspec

from pybuild.oci.digest import Digest
from pybuild.oci.image import ImageConfig, RunConfig
from pybuild.oci.platform import Platform


class FromContext(msgspec.Struct, frozen=True):
    """COPY reads the build context."""


class FromStage(msgspec.Struct, frozen=True):
    """COPY or FROM reads a stage of this build."""

    index: int


class FromImage(msgspec.Struct, frozen=True):
    """COPY or FROM reads an image of the store.

    `platform` is the one that FROM asks for, "" for that of the build.
    """

    reference: str
    platform: str = ""

    @property
    def key(self) -> str:
        """Return what the image is called among those that a plan needs: a name of its own for each platform."""
        return f"{self.reference} {self.platform}" if self.platform else self.reference


class FromNamed(msgspec.Struct, frozen=True):
    """COPY or FROM reads files of a named context."""

    name: str


class FromScratch(msgspec.Struct, frozen=True):
    """FROM scratch: nothing."""


CopySource = FromContext | FromStage | FromImage | FromNamed
Base = FromScratch | FromStage | FromImage | FromNamed
MountSource = CopySource | FromScratch


class BindMount(msgspec.Struct, frozen=True):
    """Files of the context, a stage or an image. `path` is relative to the source's root, "" for all.

    What is written to one that is not `read_only` is thrown away.
    """

    target: str
    source: MountSource
    path: str = ""
    read_only: bool = True


class CacheMount(msgspec.Struct, frozen=True):
    """A directory that outlives the build. `id` has its namespace in front.

    It begins as `path` of `source`, or empty with `mode`, `uid` and `gid`. `sharing` is shared, private or locked.
    """

    target: str
    id: str
    sharing: str = "shared"
    source: MountSource | None = None
    path: str = ""
    read_only: bool = False
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


class TmpfsMount(msgspec.Struct, frozen=True):
    """An empty directory in memory; `size` is in bytes, 0 for no limit of its own."""

    target: str
    size: int = 0
    read_only: bool = False


class SecretMount(msgspec.Struct, frozen=True):
    """A secret of whoever builds, as a file (`target` "" for none) and as the variable `env` ("" for none)."""

    id: str
    target: str = ""
    env: str = ""
    required: bool = False
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


class SshMount(msgspec.Struct, frozen=True):
    """The socket of an ssh agent."""

    id: str
    target: str
    required: bool = False
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


class RunDevice(msgspec.Struct, frozen=True, array_like=True):
    """A device by its qualified name, or of a kind the first one or all (`=*`).

    One that is not `allowed` by itself may be so by another name, or by its own description.
    """

    name: str
    required: bool = False
    allowed: bool = False


RunMount = BindMount | CacheMount | TmpfsMount | SecretMount | SshMount


class RunOp(msgspec.Struct, frozen=True):
    """A command in a sandbox. `hidden_env` reaches the process but neither history nor cache key.

    `scripts` are (file name, content) that appear read-only below /dev/pipes. `insecure` takes the confinement away.
    `platform` is that of the files it runs on, `devices` are of this machine. `args` names what in `env` comes from
    ARG, for whoever asks.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    hidden_env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    network: str
    scripts: tuple[tuple[str, bytes], ...] = ()
    mounts: tuple[RunMount, ...] = ()
    insecure: bool = False
    platform: str = ""
    args: tuple[str, ...] = ()
    devices: tuple[RunDevice, ...] = ()

    def sources(self) -> list[MountSource]:
        """Return what the mounts read."""
        return [mount.source for mount in self.mounts if isinstance(mount, BindMount | CacheMount) and mount.source]


class RemoteFile(msgspec.Struct, frozen=True):
    """A file at a URL. `checksum` is `ALGORITHM:HEX`, "" for none; with `unpack` it is unpacked if it is an archive."""

    url: str
    name: str
    checksum: str = ""
    unpack: bool = False


class RemoteTree(msgspec.Struct, frozen=True):
    """Files of a git repository. `ref` "" is its HEAD; `commit` is what it must be, in full or the beginning."""

    address: str
    scheme: str
    host: str
    port: int = 0
    ref: str = ""
    subdir: str = ""
    commit: str = ""
    keep_git_dir: bool = False
    submodules: bool = True


Remote = RemoteFile | RemoteTree


class CopyOp(msgspec.Struct, frozen=True):
    """COPY or ADD. `sources` keep the order of the instruction; `inline` (name, content of heredocs) come after all.

    `unpack` holds for ADD: sources that are archives are unpacked. `link` makes the layer on an empty root. With
    `parents` sources keep their path, `excludes` are patterns of what is left out.
    `remotes` each come after so many of `sources` as `preceding` has.
    """

    instruction: str
    source: CopySource
    sources: tuple[str, ...]
    inline: tuple[tuple[str, bytes], ...]
    dest: str
    chown: str = ""
    chmod: str = ""
    unpack: bool = False
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    remotes: tuple[Remote, ...] = ()
    preceding: tuple[int, ...] = ()


class WorkdirOp(msgspec.Struct, frozen=True):
    """Makes a directory, owned by the current user, unless it is there."""

    path: str
    user: str


Op = RunOp | CopyOp | WorkdirOp


class Step(msgspec.Struct, frozen=True):
    """One instruction in effect: `op` None when it only changes the config.

    `display` is the instruction as shown, `created_by` its line in the history, `line` its place.
    """

    op: Op | None
    display: str
    created_by: str
    line: int
    end_line: int

    def depends(self) -> set[int]:
        """Return the stages that this step reads, besides its own."""
        match self.op:
            case CopyOp(source=FromStage(index=index)):
                return {index}
            case RunOp() as op:
                return {source.index for source in op.sources() if isinstance(source, FromStage)}
            case _:
                return set()


class PlannedStage(msgspec.Struct, frozen=True):
    """A stage that the target needs."""

    index: int
    name: str
    base: Base
    line: int
    from_display: str
    steps: tuple[Step, ...]
    config: RunConfig
    author: str
    platform: Platform
    no_cache: bool = False

    def depends(self) -> set[int]:
        """Return the stages this one reads."""
        found = {self.base.index} if isinstance(self.base, FromStage) else set()
        return found.union(*(step.depends() for step in self.steps))


class BaseImage(msgspec.Struct, frozen=True):
    """What planning must know of an image that FROM or --from names."""

    id: Digest
    config: ImageConfig


class NeededBase(msgspec.Struct, frozen=True):
    """An image whose config is needed: what the Dockerfile calls it, where, and for which platform.

    With `is_asked` somebody wrote the platform down, and an image for another one will not do.
    """

    reference: str
    line: int
    platform: Platform
    is_asked: bool = False


class NeedBases(msgspec.Struct, frozen=True):
    """The question planning asks back: configs of these images, by `FromImage.key`."""

    images: Mapping[str, NeededBase]


class Warned(msgspec.Struct, frozen=True):
    """Something the author should know of, with its line (0: none)."""

    message: str
    line: int = 0


class Plan(msgspec.Struct, frozen=True):
    """All that is to be done, stages in file order; the last of `stages` is the target."""

    stages: tuple[PlannedStage, ...]
    source_date_epoch: int | None = None
    warnings: tuple[Warned, ...] = ()
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def target(self) -> PlannedStage:
        """Return the stage whose image is asked for."""
        return self.stages[-1]
