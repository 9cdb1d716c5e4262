"""What a build, or a shell, tells while it runs: a closed union, one JSON object a line (`{"event": NAME, ...}`).

The order of a build's events: Planned; Reads, StepStarted, StepMissed, StepLog, Transfer, StepDone and
Notice in any interleaving (steps of independent stages overlap), among them ShellOpened and ShellEnded in turn
where shells were asked for; last exactly one of Built, Checked and Failed. A pull is told by Transfer
and Notice, and last Pulled or Failed; a push likewise, by Pushed, and what is asked of manifests by Described.
Times are seconds since the epoch as float. `step` is an index into `Planned.steps`.

They are named tuples rather than dataclasses: the client makes these classes at every start, and a dataclass
takes ten times as long to make.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class PlannedStep(NamedTuple):
    """A step that will be shown: `label` such as "[build 2/4] RUN make", `line` in the Dockerfile."""

    label: str
    stage: str
    line: int


class Planned(NamedTuple):
    """The build is understood; these steps follow."""

    steps: tuple[PlannedStep, ...]
    time: float = 0.0


class Read(NamedTuple):
    """Files of a context that a step reads: `source` is a path or pattern as COPY has it.

    With `parents` what is below its first `/./`, or all of it, is a pattern with `**`; `excludes` are patterns of what
    is left out. `context` is the key of a named context (`plan.contexts`), "" for the build's own.
    """

    source: str
    parents: bool = False
    excludes: tuple[str, ...] = ()
    context: str = ""


class Reads(NamedTuple):
    """What the build reads of its contexts, in parts: told if the request asks to `watch`."""

    reads: tuple[Read, ...]


class StepStarted(NamedTuple):
    """A step began to be worked on (a cache look-up included)."""

    step: int
    time: float


class StepLog(NamedTuple):
    """Output of a RUN, decoded as UTF-8 with replacement, unescaped: renderers must escape controls."""

    step: int
    stream: str
    text: str


SENT_CONTEXT = "sent context"
"""The label of a Transfer that is that of a context from the client."""


class Transfer(NamedTuple):
    """A byte count that grows: `total` 0 when unknown."""

    step: int
    label: str
    current: int
    total: int


class StepMissed(NamedTuple):
    """The cache has no result of a step; `reason` says why. A RUN begins after it, a COPY may be all but done."""

    step: int
    reason: str


class StepDone(NamedTuple):
    """A step ended well; `cached` without being done, `reason` why it was or was not cached."""

    step: int
    time: float
    cached: bool
    size: int = 0
    reason: str = ""


class Notice(NamedTuple):
    """Something worth telling: `level` is "warning" or "info"; `line` 0 when it has no place.

    `rule` names the build check that found it, "" for all else.
    """

    level: str
    message: str
    line: int = 0
    rule: str = ""


class Built(NamedTuple):
    """The build ended well. `source_date_epoch` (seconds) is what the build's times are, None for those it had.

    With `platforms` there are several images, and `image_id` is that of the index that holds them. `digest` is what the
    names stand for at the registry, if it was pushed.
    """

    image_id: str
    tags: tuple[str, ...]
    time: float
    digest: str = ""
    exported: tuple[str, ...] = ()
    source_date_epoch: int | None = None
    platforms: tuple[str, ...] = ()


class Failure(NamedTuple):
    """An error as a value: what the CLI prints and the daemon sends.

    `kind` is the exception's class name, `exit_code` the one to leave with. `file`, `line`, `column`
    (1-based, 0 unknown), `length` and `source` (the text of the lines) place it. `log` are the last
    lines of a failed RUN, `status` its exit status (-1 when there is none), `kept` the name of its tree when
    that was kept for `pybuild shell`.
    """

    kind: str
    message: str
    hint: str = ""
    exit_code: int = 1
    file: str = ""
    line: int = 0
    column: int = 0
    length: int = 0
    source: str = ""
    log: tuple[str, ...] = ()
    status: int = -1
    traceback: str = ""
    kept: str = ""


class Finding(NamedTuple):
    """What a build check found, about the instruction in `line` to `end_line`.

    `mark_line`, `column` and `length` (characters) are the part of it that is meant; a column of 0 is unknown.
    """

    rule: str
    message: str
    line: int
    end_line: int
    mark_line: int
    column: int
    length: int


class Checked(NamedTuple):
    """The Dockerfile was looked at and nothing was built: what ends a request whose `call` is "check".

    `file` is its name, `source` its text. With `as_errors` the file asks that any finding fails a build. `failure` is
    what a build would fail with before it does anything.
    """

    file: str
    source: str
    findings: tuple[Finding, ...]
    as_errors: bool
    time: float
    failure: Failure | None = None


class Failed(NamedTuple):
    """The build ended badly; `step` is -1 when no step is to blame."""

    failure: Failure
    step: int
    time: float


class ShellOpened(NamedTuple):
    """A shell waits for its visitor, who takes its descriptors by `token` (`Backend.attach`).

    In a build `failure` is that of the step it is opened in.
    """

    step: int
    token: str
    time: float
    failure: Failure | None = None


class ShellEnded(NamedTuple):
    """The shell ended with `status`; `message` says why it could not be had when that is so.

    In a build its visitor decides how to go on (`Backend.decide`). Of a shell alone it is the last event.
    """

    step: int
    token: str
    time: float
    status: int
    message: str = ""


RETRY, ACCEPT, AGAIN, ABORT = DECISIONS = ("retry", "accept", "shell", "abort")
"""How a build goes on after a shell in a failed step: do the step on the tree as it is now, take the tree for its
result, open another shell, or fail."""


class Moved(NamedTuple):
    """An image that was pulled or pushed: `digest` is what its `name` stands for at the registry.

    `fresh` ones were not all here, or not all there. `size` is that of the manifest that was pushed, in bytes.
    """

    name: str
    digest: str
    image_id: str
    fresh: bool
    size: int = 0


class Pulled(NamedTuple):
    """All images that were asked for are here: what ends a pull that went well."""

    images: tuple[Moved, ...]
    time: float


class Pushed(NamedTuple):
    """All images that were to go are at their registries: what ends a push that went well."""

    images: tuple[Moved, ...]
    time: float


class Document(NamedTuple):
    """A manifest or index: what it was asked for as, and its text, whose UTF-8 has the digest.

    `platform` is what an index says of it, as its descriptor has it.
    """

    name: str
    media_type: str
    digest: str
    data: str
    platform: Mapping[str, Any] = MappingProxyType({})


class Described(NamedTuple):
    """What a name stands for, or an index that was made: the document itself, then those of its images.

    It ends what `pybuild manifest` asks for. `id` is that of the index or image here, or the digest at its registry.
    """

    name: str
    id: str
    documents: tuple[Document, ...]
    time: float


Event = (
    Planned
    | Reads
    | StepStarted
    | StepMissed
    | StepLog
    | Transfer
    | StepDone
    | Notice
    | Built
    | Checked
    | Failed
    | ShellOpened
    | ShellEnded
    | Pulled
    | Pushed
    | Described
)

_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        *(Planned, Reads, StepStarted, StepMissed, StepLog, Transfer, StepDone, Notice, Built, Checked, Failed),
        *(ShellOpened, ShellEnded, Pulled, Pushed, Described),
    )
}


def is_last(event: Event) -> bool:
    """Does nothing follow this event?"""
    return isinstance(event, Built | Checked | Failed | Pulled | Pushed | Described) or (
        isinstance(event, ShellEnded) and event.step < 0
    )


def to_json(event: Event) -> dict[str, Any]:
    """Return the event as plain JSON values."""
    values = event._asdict()
    if isinstance(event, Planned):
        values["steps"] = [step._asdict() for step in event.steps]
    if isinstance(event, Reads):
        values["reads"] = [read._asdict() for read in event.reads]
    if isinstance(event, Checked):
        values["findings"] = [finding._asdict() for finding in event.findings]
    if isinstance(event, Described):
        values["documents"] = [{**one._asdict(), "platform": dict(one.platform)} for one in event.documents]
    if isinstance(event, Pulled | Pushed):
        values["images"] = [image._asdict() for image in event.images]
    if isinstance(event, Checked | Failed | ShellOpened) and event.failure is not None:
        values["failure"] = event.failure._asdict()
    return {"event": type(event).__name__, **values}


def from_json(data: dict[str, Any]) -> Event:
    """Return the event in `data`; raise ValueError for one that this version does not know."""
    values = dict(data)
    kind = _KINDS.get(str(values.pop("event", "")))
    if kind is None:
        raise ValueError(f"unknown event: {data!r:.200}")
    try:
        if kind is Planned:
            values["steps"] = tuple(PlannedStep(**step) for step in values["steps"])
        elif kind is Reads:
            values["reads"] = tuple(Read(**{**read, "excludes": tuple(read["excludes"])}) for read in values["reads"])
        elif kind in (Pulled, Pushed):
            values["images"] = tuple(Moved(**image) for image in values["images"])
        elif kind is Described:
            values["documents"] = tuple(Document(**document) for document in values["documents"])
        elif kind is Checked:
            values["findings"] = tuple(Finding(**finding) for finding in values["findings"])
        if kind in (Checked, Failed, ShellOpened) and values.get("failure") is not None:
            failure = values["failure"]
            values["failure"] = Failure(**{**failure, "log": tuple(failure.get("log", ()))})
        elif kind is Built:
            values["tags"], values["exported"] = tuple(values["tags"]), tuple(values.get("exported", ()))
            values["platforms"] = tuple(values.get("platforms", ()))
        return kind(**values)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"malformed event: {data!r:.200}") from error
