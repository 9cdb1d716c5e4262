"""Why steps were not cached: found out at each miss, written down with each build, and told by `pybuild explain`.

A step that hits costs a few words in memory. One that misses is compared with the nearest earlier account of the same
step: that of an earlier build of the same context, else one of the same instruction from anywhere.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import msgspec

from pybuild.api.events import Event, Notice, StepMissed
from pybuild.api.request import BuildRequest
from pybuild.dockerfile.addresses import redacted
from pybuild.errors import CancelledError, NotFoundError, PybuildError
from pybuild.plan.keys import Key
from pybuild.plan.ops import PlannedStage, RunOp, Step
from pybuild.store.builds import new_identity
from pybuild.store.errors import StoreError
from pybuild.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybuild.engine.carrying import Told
    from pybuild.plan.account import Account
    from pybuild.tree.listing import Listing

VERSION = 1
LOOK_BACK = 4
"""How many earlier builds of the same context are searched for a step."""

MAX_CHANGES = 500
"""Most changes that the record of a build holds."""

MAX_TEXT = 400
"""Longest instruction in the record of a build, in characters."""

NO_CACHE = "the cache is off for this stage"
BY_HAND = "continued by hand"
LAYER_GONE = "the layer of its earlier result is gone"
NEVER = "no earlier result of this step"
NO_DIFFERENCE = "no earlier result for these inputs"


class StepRecord(msgspec.Struct, omit_defaults=True):
    """A step in the record of a build: `state` is cached, done, failed, or unfinished when another one failed.

    `reason` says why it was not cached; `against` is when the result was made that it was compared with, 0 for none.
    `changes` are those of `plan.changes.Change`, `more` is how many were left out.
    """

    number: int
    label: str
    stage: str
    place: int
    line: int
    text: str
    kind: str = ""
    key: str = ""
    state: str = "unfinished"
    reason: str = ""
    against: float = 0.0
    changes: list[dict[str, Any]] = []
    more: int = 0


class BuildRecord(msgspec.Struct, omit_defaults=True):
    """A build: `state` is built, failed or cancelled, `took` seconds; `total` counts all steps but FROM."""

    id: str
    time: float
    took: float
    context: str
    file: str
    state: str
    target: str = ""
    tags: tuple[str, ...] = ()
    image: str = ""
    error: str = ""
    total: int = 0
    steps: list[StepRecord] = []
    version: int = VERSION


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(BuildRecord)


class Look:
    """One step's look into the cache."""

    def __init__(self, explainer: "Explainer", stage: PlannedStage, step: Step, record: StepRecord) -> None:
        self._explainer = explainer
        self._no_cache = stage.no_cache
        self._args = step.op.args if isinstance(step.op, RunOp) else ()
        self._account: Account | None = None
        self._listing: Listing | None = None
        self.below: Sequence[tuple[str, str]] = ()
        self.told: Told | None = None
        self.record = record

    @property
    def cached(self) -> bool:
        """Was there a result?"""
        return self.record.state == "cached"

    @property
    def reason(self) -> str:
        """Return why it was not cached."""
        return self.record.reason

    def hit(self, key: Key, listing: Callable[[], "Listing | None"]) -> None:
        """Note that there is a result; `listing` gives the files of a COPY, for an image to carry."""
        self.record.key, self.record.kind, self.record.state = key.text, key.kind, "cached"
        if self._explainer.carries:
            self.told = self._account_of(key), listing()

    def miss(self, key: Key, listing: Callable[[], "Listing | None"]) -> None:
        """Note that there is none, and find out why; `listing` gives the files that the key is about."""
        record = self.record
        record.key, record.kind = key.text, key.kind
        self._account = self._account_of(key)
        self._listing = listing()
        if self._explainer.carries:
            # What a RUN reads by a mount need not be in the image, and then its names are not for all who have that
            self.told = self._account, self._listing if key.kind == "copy" else None
        if self._no_cache:
            record.reason = NO_CACHE
        else:
            self._explainer.explain(record, self._account, self._listing)
        self._explainer.emit(StepMissed(record.number, record.reason))

    def _account_of(self, key: Key) -> "Account":
        from pybuild.plan.account import account_of

        record = self.record
        return account_of(
            key, stage=record.stage, place=record.place, text=record.text, args=self._args, below=self.below
        )

    def done(self) -> None:
        """Note that the step has its result."""
        if not self.cached:
            self.record.state = "done"

    def by_hand(self) -> None:
        """Note that somebody had a hand in it, so that nothing is kept of it."""
        self.record.reason = BY_HAND

    def keep(self) -> None:
        """Keep the account beside the cache record that was made."""
        if self._account is None:
            return
        from pybuild.plan.account import identity

        self._explainer.store.accounts.put(
            self.record.key,
            identity(self._account.kind, self._account.text),
            self._account.encode(),
            self._listing.encode() if self._listing is not None else None,
        )


class Explainer:
    """Follows one build, all stages of it at once."""

    def __init__(
        self,
        store: Store,
        request: BuildRequest,
        file: str,
        stages: Sequence[PlannedStage],
        emit: Callable[[Event], None],
        *,
        carries: bool = False,
    ) -> None:
        """`carries` tells that the image is to have accounts of all its steps, those of cached ones as well."""
        self.store = store
        self.carries = carries
        self._request = request
        self._file = file
        self.emit = emit
        self._stages = stages
        self._steps: list[StepRecord] = []
        self._lock = Lock()
        self._earlier: list[BuildRecord] | None = None
        self._room = MAX_CHANGES
        place = f"{redacted(request.context)}\0{request.dockerfile}\0{file}"
        self._project = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]

    def look(
        self, stage: PlannedStage, step: Step, place: int, number: int, label: str, below: Sequence[tuple[str, str]]
    ) -> Look:
        """Return the look of a step, `place` being its position among those of its stage that do something."""
        record = StepRecord(number, _cut(label), stage.name, place, step.line, _cut(step.display))
        self._steps.append(record)
        look = Look(self, stage, step, record)
        look.below = below
        return look

    def unrecorded(self, stage: PlannedStage, step: Step, number: int, label: str) -> Look:
        """Return the look of what is no step of the Dockerfile: the files that a stage begins with."""
        return Look(self, stage, step, StepRecord(number, label, stage.name, -1, step.line, step.display))

    @contextmanager
    def recording(self, total: int) -> Iterator[Callable[[str], None]]:
        """Write down how the build went at the end of the block, which says what image it made."""
        began = time.time()
        image = ""

        def built(identity: str) -> None:
            nonlocal image
            image = identity

        try:
            yield built
        except BaseException as error:
            state = "cancelled" if isinstance(error, CancelledError | KeyboardInterrupt) else "failed"
            told = error.message if isinstance(error, PybuildError) else type(error).__name__
            self._mark_failed(getattr(error, "line", 0))
            self._write(self._record(began, total, state, error=told))
            raise
        self._write(self._record(began, total, "built", image=image))

    def _mark_failed(self, line: int) -> None:
        for record in self._steps:
            # Stages side by side may be in the middle of a step each; the one to blame has the line of the error
            if record.state == "unfinished" and record.line == line:
                record.state = "failed"

    def _record(self, began: float, total: int, state: str, *, image: str = "", error: str = "") -> BuildRecord:
        request = self._request
        return BuildRecord(
            id=new_identity(),
            time=began,
            took=time.time() - began,
            context=_clean(redacted(request.context)) or "-",
            file=_clean(self._file),
            state=state,
            target=_clean(request.target),
            tags=request.tags,
            image=image,
            error=_cut(_clean(error)),
            total=total,
            steps=self._steps,
        )

    def _write(self, record: BuildRecord) -> None:
        if not self._request.remembers:
            return
        try:
            self.store.builds.put(_encoder.encode(record), record.id, self._project)
        except StoreError as error:
            # The build itself is done, or has an error of its own to tell
            self.emit(Notice("warning", error.message))

    def explain(self, record: StepRecord, account: "Account", listing: "Listing | None") -> None:
        """Find out why there is no result of a step, and write it into its record."""
        from pybuild.plan.changes import MAX_CHANGES as MAX_OF_STEP
        from pybuild.plan.changes import clause, compare

        if self.store.cache.get(record.key) is not None:
            record.reason = LAYER_GONE
            return
        found = self._nearest(record, account)
        if found is None:
            record.reason = NEVER
            return
        key, old, record.against = found
        changes = compare(old, account, self._listing(key), listing)
        record.reason = clause(changes) or NO_DIFFERENCE
        with self._lock:
            told = changes[: min(MAX_OF_STEP, self._room)]
            self._room -= len(told)
        record.changes = [msgspec.to_builtins(change) for change in told]
        record.more = len(changes) - len(told)

    def _listing(self, key: str) -> "Listing | None":
        from pybuild.tree.listing import Listing

        data = self.store.accounts.listing(key)
        try:
            return Listing.decode(data) if data is not None else None
        except msgspec.DecodeError:
            return None

    def _nearest(self, record: StepRecord, account: "Account") -> "tuple[str, Account, float] | None":
        """Return key, account and time of the earlier result that differs least, of several such the newest."""
        from pybuild.plan.account import Account, identity
        from pybuild.plan.changes import distance

        keys = [*self._keys_before(record), *self.store.accounts.keys(identity(account.kind, account.text))]
        best: tuple[int, str, Account, float] | None = None
        for key in dict.fromkeys(keys):
            row = self.store.accounts.account(key)
            known = Account.decode(row[0]) if row is not None else None
            if row is None or known is None:
                continue
            apart = distance(known, account)
            if best is None or apart < best[0]:
                best = (apart, key, known, row[1])
        return best[1:] if best is not None else None

    def _keys_before(self, record: StepRecord) -> Iterator[str]:
        """Yield the keys that this step had in earlier builds of the same context, the last build first."""
        with self._lock:
            if self._earlier is None:
                self._earlier = [*self._load_earlier()]
        for build in self._earlier:
            steps = [step for step in build.steps if step.stage == record.stage and step.state in ("cached", "done")]
            alike = [step for step in steps if step.text == record.text and step.kind == record.kind]
            if alike:
                yield min(alike, key=lambda step: abs(step.place - record.place)).key
                continue
            # It was edited, if one of its kind is no longer there
            texts = {_cut(step.display) for stage in self._stages if stage.name == record.stage for step in stage.steps}
            gone = [step for step in steps if step.text not in texts]
            edited = [step for step in gone if step.kind == record.kind or step.place == record.place]
            if edited:
                apart = [(step.kind != record.kind, abs(step.place - record.place), step.key) for step in edited]
                yield min(apart)[2]

    def _load_earlier(self) -> Iterator[BuildRecord]:
        for identity in self.store.builds.identities(self._project)[:LOOK_BACK]:
            record = _load(self.store, identity)
            if record is not None:
                yield record


def was_run(store: Store, step: Step) -> bool:
    """Is there an earlier result of a RUN of the same text, whatever it stood on?"""
    from pybuild.plan.account import identity

    return bool(store.accounts.keys(identity("run", _cut(step.display))))


def _clean(text: str) -> str:
    """Return text without lone surrogates, of which names of files may be full and JSON cannot hold any."""
    return text.encode(errors="backslashreplace").decode()


def _cut(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]}… {hashlib.sha256(text.encode(errors='replace')).hexdigest()[:12]}"


def no_listing() -> None:
    """Return the files of a step that reads none."""
    return


def _load(store: Store, identity: str) -> BuildRecord | None:
    data = store.builds.get(identity)
    try:
        record = _decoder.decode(data) if data is not None else None
    except msgspec.DecodeError:
        return None
    return record if record is not None and record.version == VERSION else None


def builds(store: Store) -> list[dict[str, Any]]:
    """Return the builds that can be explained, the newest first, without their steps."""
    found: list[dict[str, Any]] = []
    for identity in store.builds.identities():
        record = _load(store, identity)
        if record is not None:
            found.append(_summary(record))
    return found


def explained(store: Store, identity: str) -> dict[str, Any]:
    """Return a build with its steps by its id or the beginning of it, the last one for ""; raise NotFoundError."""
    known = store.builds.identities()
    matching = [name for name in known if name.startswith(identity)]
    if not known:
        raise NotFoundError("there is no build to explain", "each `pybuild build` can be explained afterwards")
    if not matching or (identity and len(matching) > 1):
        what = "several builds have ids that begin like this" if matching else "no such build"
        raise NotFoundError(f"{what}: {identity}", "`pybuild explain --list` lists them")
    record = _load(store, matching[0])
    if record is None:
        raise NotFoundError(f"the record of the build cannot be read: {matching[0]}")
    steps = [
        {
            **{name: value for name, value in _full(step).items() if name not in ("number", "place", "key", "kind")},
            "cached": step.state == "cached",
        }
        for step in sorted(record.steps, key=lambda step: step.number)
    ]
    return {**_summary(record), "steps": steps}


def _summary(record: BuildRecord) -> dict[str, Any]:
    values = {name: value for name, value in _full(record).items() if name not in ("steps", "version")}
    values["tags"] = list(record.tags)
    cached = sum(step.state == "cached" for step in record.steps)
    return {**values, "cached": cached, "missed": sum(bool(step.reason) for step in record.steps)}


def _full(record: BuildRecord | StepRecord) -> Mapping[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
