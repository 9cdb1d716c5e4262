"""The planned work, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pybuild.oci.digest import Digest
from pybuild.oci.image import ImageConfig, RunConfig


@dataclass(frozen=True, slots=True)
class FromContext:
    """COPY reads the build context."""


@dataclass(frozen=True, slots=True)
class FromStage:
    """COPY or FROM reads a stage of this build."""

    index: int


@dataclass(frozen=True, slots=True)
class FromImage:
    """COPY or FROM reads an image of the store."""

    reference: str


@dataclass(frozen=True, slots=True)
class FromScratch:
    """FROM scratch: nothing."""


CopySource = FromContext | FromStage | FromImage
Base = FromScratch | FromStage | FromImage


@dataclass(frozen=True, slots=True)
class RunOp:
    """A command in a sandbox. `hidden_env` reaches the process but neither history nor cache key.

    `scripts` are (file name, content) that appear read-only below /dev/pipes.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    hidden_env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    network: str
    scripts: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class CopyOp:
    """COPY or ADD. `sources` and `inline` (name, content of heredocs) keep the order of the instruction.

    `unpack` holds for ADD: sources that are archives are unpacked. `link` makes the layer on an empty root.
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


@dataclass(frozen=True, slots=True)
class WorkdirOp:
    """Makes a directory, owned by the current user, unless it is there."""

    path: str
    user: str


Op = RunOp | CopyOp | WorkdirOp


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction in effect: `op` None when it only changes the config.

    `display` is the instruction as shown, `created_by` its line in the history, `line` its place.
    """

    op: Op | None
    display: str
    created_by: str
    line: int
    end_line: int
    author: str = ""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage that the target needs."""

    index: int
    name: str
    base: Base
    line: int
    from_display: str
    steps: tuple[Step, ...]
    config: RunConfig
    author: str
    no_cache: bool = False

    def depends(self) -> set[int]:
        """Return the stages this one reads."""
        found = {self.base.index} if isinstance(self.base, FromStage) else set()
        for step in self.steps:
            if isinstance(step.op, CopyOp) and isinstance(step.op.source, FromStage):
                found.add(step.op.source.index)
        return found


@dataclass(frozen=True, slots=True)
class BaseImage:
    """What planning must know of an image that FROM or --from names."""

    id: Digest
    config: ImageConfig


@dataclass(frozen=True, slots=True)
class NeedBases:
    """The question planning asks back: configs of these images, as the Dockerfile names them.

    `lines` tells where each is named.
    """

    references: frozenset[str]
    lines: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the author should know of, with its line (0: none)."""

    message: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be done, stages in file order; the last of `stages` is the target."""

    stages: tuple[PlannedStage, ...]
    platform: str
    source_date_epoch: int | None = None
    warnings: tuple[Warned, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> PlannedStage:
        """Return the stage whose image is asked for."""
        return self.stages[-1]
