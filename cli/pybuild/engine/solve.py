"""Solve a plan: stages side by side, each step looked up in the cache and done when it is not there."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_all
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, assert_never

import msgspec

from pybuild.api.events import Event, Notice, StepDone, StepStarted, Transfer
from pybuild.api.request import BuildRequest
from pybuild.dockerfile.addresses import redacted
from pybuild.dockerfile.errors import DockerfileError
from pybuild.engine import copying, mounting, reading, running
from pybuild.engine.bindtrees import BindTrees
from pybuild.engine.deadline import Deadline
from pybuild.engine.errors import StepError
from pybuild.engine.explaining import Explainer, Look, no_listing
from pybuild.engine.grounds import Grounds
from pybuild.engine.named import NamedContexts
from pybuild.engine.networks import Networks
from pybuild.engine.remotes import Remotes
from pybuild.engine.sources import ContextSource, LayerSource, Source, stage_source
from pybuild.engine.workers import Workers
from pybuild.errors import CancelledError, PybuildError
from pybuild.layer.tarwriter import Packed
from pybuild.oci.digest import Digest, chain_id
from pybuild.oci.image import History, ImageConfig
from pybuild.plan.keys import Key, copy_key, run_key, workdir_key
from pybuild.plan.ops import (
    CopyOp,
    FromContext,
    FromImage,
    FromNamed,
    FromScratch,
    FromStage,
    MountSource,
    Op,
    Plan,
    PlannedStage,
    Remote,
    RemoteFile,
    RemoteTree,
    RunOp,
    Step,
    WorkdirOp,
)
from pybuild.sandbox.cgroups import Limiter
from pybuild.store.blobs import BlobWriter
from pybuild.store.cache import CacheRecord
from pybuild.store.store import Store
from pybuild.tree.copy import Selected

if TYPE_CHECKING:
    from pybuild.engine.carrying import Told
    from pybuild.tree.listing import Listing

HISTORY_COMMENT = "buildkit.dockerfile.v0"
BY_HAND_COMMENT = f"{HISTORY_COMMENT}; continued by hand after it had failed"
BY_HAND = "by_hand"
"""Key in the value of a record that is never kept: its step was not left to itself."""

MAX_PARALLEL = 64
"""Most stages worked on at once; a stage that waits for another holds a thread and nothing else."""


class StageState(msgspec.Struct):
    """How far a stage has come: its layers bottom first, and the history that goes with them.

    The first `base_layers` are those of an image that FROM named.
    """

    diff_ids: list[Digest] = msgspec.field(default_factory=list)
    history: list[History] = msgspec.field(default_factory=list)
    created: str = ""
    author: str = ""
    base_layers: int = 0
    results: list[tuple[str, CacheRecord]] = msgspec.field(default_factory=list)
    """Keys and results of its steps, those of the stage it is built from first."""
    told: "dict[str, Told]" = msgspec.field(default_factory=dict)
    """What their keys were made of, when an image is to carry that."""
    below: list[tuple[str, str]] = msgspec.field(default_factory=list)
    """The base and each step that does something, with a digest of what came of it: what an account says of them."""


class Inputs(msgspec.Struct, frozen=True):
    """All that solving needs besides the plan."""

    store: Store
    request: BuildRequest
    context: ContextSource
    images: dict[str, ImageConfig]
    workers: Workers
    networks: Networks
    limiter: Limiter
    deadline: Deadline
    grounds: Grounds
    binds: BindTrees
    remotes: Remotes
    explainer: Explainer
    named: NamedContexts
    elsewhere: Callable[[str], CacheRecord | None]
    offer: Callable[[int, Digest], None]
    emit: Callable[[Event], None]
    cancel: Flag
    file: str
    text: str
    turn: Lock = msgspec.field(default_factory=Lock)


class Solver:
    """Solves one plan once."""

    def __init__(self, plan: Plan, inputs: Inputs, shown: "Sequence[Shown]") -> None:
        self._plan = plan
        self._in = inputs
        self._numbers = {key: number for number, (key, *_) in enumerate(shown)}
        self._labels = [label for _, label, *_ in shown]
        self._futures: dict[int, Future[StageState]] = {}
        self._failed = Flag()
        self._context_lock = Lock()
        self._turns: dict[str, Lock] = {}
        self._turns_lock = Lock()
        self._made: dict[str, CacheRecord] = {}

    def solve(self) -> StageState:
        """Return the target's layers and history.

        Raises the first error of any stage (StepError for one with a place), CancelledError when told to stop.
        Finished steps stay in the cache either way.
        """
        count = min(len(self._plan.stages), MAX_PARALLEL)
        if count == 1 or (all(len(stage.depends()) for stage in self._plan.stages[1:]) and self._is_chain()):
            return self._solve_in_order()
        with ThreadPoolExecutor(count, thread_name_prefix="stage") as pool:
            # File order guarantees that a stage only waits for ones that have been started
            for stage in self._plan.stages:
                self._futures[stage.index] = pool.submit(self._guarded, stage)
            wait_all(self._futures.values())
        errors = [error for future in self._futures.values() if (error := future.exception()) is not None]
        # Stages that were stopped because of another one only say so
        for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
            raise error
        return self._futures[self._plan.target.index].result()

    def state(self, index: int) -> StageState:
        """Return how a stage came out, once solved."""
        return self._futures[index].result()

    def results(self) -> list[tuple[str, CacheRecord]]:
        """Return keys and results of all steps of all stages, once solved."""
        found = {key: record for future in self._futures.values() for key, record in future.result().results}
        return list(found.items())

    def _is_chain(self) -> bool:
        """Does each stage need the one before it, so that nothing could run side by side?"""
        stages = self._plan.stages
        return all(before.index in after.depends() for before, after in pairwise(stages)) and all(
            isinstance(after.base, FromStage) for after in stages[1:]
        )

    def _solve_in_order(self) -> StageState:
        for stage in self._plan.stages:
            done: Future[StageState] = Future()
            done.set_result(self._stage(stage))
            self._futures[stage.index] = done
        return self._futures[self._plan.target.index].result()

    def _guarded(self, stage: PlannedStage) -> StageState:
        try:
            return self._stage(stage)
        except BaseException:
            self._failed.set()
            self._in.workers.stop()
            raise

    def _state_of(self, index: int) -> StageState:
        """Wait for another stage and return how it ended."""
        try:
            return self._futures[index].result()
        except BaseException as error:
            raise _Abandoned from error

    def _check(self) -> None:
        if self._in.cancel.is_set():
            raise CancelledError("the build was cancelled")
        if self._failed.is_set():
            raise _Abandoned

    def _stage(self, stage: PlannedStage) -> StageState:
        self._check()
        state = self._base(stage)
        place = 0
        for position, step in enumerate(stage.steps):
            self._check()
            if step.op is None:
                state.history.append(self._history(step, state.created, empty=True))
                continue
            number = self._numbers[stage.index, position + 1]
            # Waiting for others is no part of the step
            for index in step.depends():
                self._state_of(index)
            self._in.emit(StepStarted(number, time.time()))
            label = self._labels[number]
            look = self._in.explainer.look(stage, step, place, number, label, state.below)
            place += 1
            record = self._placed(
                step, number, partial(self._solve_op, stage=stage, state=state, number=number, look=look)
            )
            look.done()
            state.below.append((look.record.text, record.diff_id or ""))
            if BY_HAND not in record.value:
                state.results.append((look.record.key, record))
                if record.diff_id is not None:
                    self._in.offer(stage.index, record.diff_id)
                if look.told is not None:
                    state.told[look.record.key] = look.told
            if record.diff_id is not None:
                state.diff_ids.append(record.diff_id)
            state.created = self._created(record)
            state.history.append(self._history(step, state.created, empty=record.diff_id is None, by=record))
            self._in.emit(StepDone(number, time.time(), look.cached, record.size, look.reason))
        state.author = stage.author
        return state

    def _base(self, stage: PlannedStage) -> StageState:
        number = self._numbers[stage.index, 0]
        if isinstance(stage.base, FromStage):
            self._state_of(stage.base.index)
        self._in.emit(StepStarted(number, time.time()))
        match stage.base:
            case FromScratch():
                state = StageState(below=[("scratch", "")])
            case FromStage(index=index):
                parent = self._state_of(index)
                state = StageState(list(parent.diff_ids), list(parent.history), parent.created)
                state.base_layers = parent.base_layers
                state.results = list(parent.results)
                state.told = dict(parent.told)
                state.below = list(parent.below)
            case FromImage():
                config = self._in.images[stage.base.key]
                state = StageState(list(config.rootfs.diff_ids), list(config.history or ()), config.created)
                state.base_layers = len(state.diff_ids)
                state.below = [(stage.base.reference, chain_id(state.diff_ids) or "")]
            case FromNamed(name=name):
                state = self._named_base(stage, name, number)
            case _ as unreachable:
                assert_never(unreachable)
        self._in.emit(StepDone(number, time.time(), cached=True))
        return state

    def _named_base(self, stage: PlannedStage, name: str, number: int) -> StageState:
        """Return a stage that begins with the files of a named context, as one layer."""
        op = CopyOp(instruction="FROM", source=FromNamed(name), sources=(".",), inline=(), dest="/")
        step = Step(op, stage.from_display, f"FROM {name}", stage.line, stage.line)
        state = StageState()
        look = self._in.explainer.unrecorded(stage, step, number, self._labels[number])
        record = self._placed(step, number, partial(self._solve_op, stage=stage, state=state, number=number, look=look))
        assert record.diff_id is not None
        state.diff_ids.append(record.diff_id)
        state.below = [(name, record.diff_id)]
        state.created = self._created(record)
        state.history.append(self._history(step, state.created, empty=False, by=record))
        return state

    def _history(self, step: Step, created: str, *, empty: bool, by: CacheRecord | None = None) -> History:
        comment = BY_HAND_COMMENT if by is not None and BY_HAND in by.value else HISTORY_COMMENT
        return History(created=created, created_by=step.created_by, comment=comment, empty_layer=empty)

    def _created(self, record: CacheRecord) -> str:
        epoch = self._plan.source_date_epoch
        return timestamp(record.created if epoch is None else epoch)

    def _placed(self, step: Step, number: int, solve: Callable[[Op], CacheRecord]) -> CacheRecord:
        """Run `solve` and give its errors the step's place."""
        assert step.op is not None
        try:
            return solve(step.op)
        except (StepError, CancelledError, DockerfileError) as error:
            if isinstance(error, CancelledError) and self._in.deadline.passed:
                error = self._in.deadline.error()
            if isinstance(error, StepError):
                self._place(step, number, error)
                raise error
            raise
        except PybuildError as error:
            raise StepError(
                error.message,
                error.hint,
                file=self._in.file,
                line=step.line,
                source=self._source(step),
                step=number,
            ) from error

    def _place(self, step: Step, number: int, error: StepError) -> None:
        if not error.line:
            error.file, error.line, error.step = self._in.file, step.line, number
            error.source = self._source(step)

    def _source(self, step: Step) -> str:
        return redacted("\n".join(self._in.text.split("\n")[step.line - 1 : step.end_line]))

    # Ops: each returns its cache record, and tells `look` whether it was there

    def _solve_op(self, op: Op, stage: PlannedStage, state: StageState, number: int, look: Look) -> CacheRecord:
        match op:
            case RunOp():
                return self._run(op, stage, state, number, look)
            case CopyOp():
                return self._copy(op, stage, state, number, look)
            case WorkdirOp():
                return self._workdir(op, stage, state, look)
            case _ as unreachable:
                assert_never(unreachable)

    def _lookup(
        self, key: Key, stage: PlannedStage, look: Look, listing: "Callable[[], Listing | None]" = no_listing
    ) -> CacheRecord | None:
        made = self._made.get(key.text)
        if made is not None:
            look.hit(key, listing)
            return made
        if stage.no_cache:
            return None
        record = self._in.store.cache.get(key.text)
        if record is None or (record.diff_id is not None and not self._in.store.layers.has(record.diff_id)):
            record = self._in.elsewhere(key.text)
        if record is None:
            return None
        look.hit(key, listing)
        return record

    def _record(self, key: Key, diff_id: Digest | None, size: int, description: str, look: Look) -> CacheRecord:
        record = CacheRecord(diff_id=diff_id, size=size, created=time.time(), description=description)
        self._made[key.text] = record
        if self._in.request.remembers:
            self._in.store.cache.put(key.text, record)
            look.keep()
        return record

    def _keep(self, blob: BlobWriter, packed: Packed) -> None:
        blob.commit(packed.diff_id, packed.size)
        self._in.store.layers.record(packed.diff_id, packed.size, packed.toc)

    def _run(self, op: RunOp, stage: PlannedStage, state: StageState, number: int, look: Look) -> CacheRecord:
        request = self._in.request
        options: dict[str, object] = {
            "hosts": request.extra_hosts,
            "shm": request.shm_size,
            "ulimits": [[limit.name, limit.soft, limit.hard] for limit in request.ulimits],
            "hostname": running.hostname(request),
        }
        chain = chain_id(state.diff_ids)
        mode = self._mode()
        reads = _Reads(self._open_source, self._layers_of, self._check, self._tell_found)
        contents = mounting.contents(op, self._in, reads)
        key = run_key(op, chain, mode, options, contents)
        if op.devices:
            self._check_devices(op)
        with self._alone(key):
            record = self._lookup(key, stage, look)
            if record is None:
                # Only a worker that runs shows that its ids can be mapped as planned
                self._in.workers.prepare()
                if mode != self._mode():
                    key = run_key(op, chain, self._mode(), options, contents)
                    record = self._lookup(key, stage, look)
            if record is not None:
                return record
            look.miss(key, partial(mounting.listed, op, reads))
            step = next(step for step in stage.steps if step.op is op)
            place = partial(self._place, step, number)
            with mounting.mounted(op, self._in, reads, contents) as mounted:
                packed, blob, by_hand = running.run(op, self._in, state.diff_ids, mounted, number, step.line, place)
                with blob:
                    self._keep(blob, packed)
            if by_hand:
                self._in.emit(Notice("warning", "continued by hand, so this step's result is not cached", step.line))
                look.by_hand()
                return CacheRecord(packed.diff_id, packed.size, time.time(), value={BY_HAND: True})
            return self._record(key, packed.diff_id, packed.size, "RUN " + op.argv[-1][:200], look)

    @contextmanager
    def _alone(self, key: Key) -> Iterator[None]:
        """Let no other stage work on a result of the same key: it finds this one."""
        with self._turns_lock:
            turn = self._turns.setdefault(key.text, Lock())
        with turn:
            self._check()
            yield

    def _check_devices(self, op: RunOp) -> None:
        """Raise what is wrong with the devices of a step: as of any permission, whether it is cached or not."""
        from pybuild.engine import devices

        devices.find(op.devices, self._in.request.allow, lambda told: None)

    def _mode(self) -> str:
        """Return how RUN steps map and emulate ids, as keys have it."""
        emulation = self._in.workers.emulation(self._in.request.root_emulation)
        return self._in.workers.mode if emulation == "off" else f"{self._in.workers.mode}+{emulation}"

    def _copy(self, op: CopyOp, stage: PlannedStage, state: StageState, number: int, look: Look) -> CacheRecord:
        chain = chain_id(state.diff_ids)
        with ExitStack() as stack:
            # Before the context, which only one step reads at a time
            remotes = [(remote, stack.enter_context(self._fetch(remote, op, number))) for remote in op.remotes]
            source = stack.enter_context(self._source_of(op))
            image = stack.enter_context(stage_source(self._in.store, state.diff_ids))
            step = copying.begin(op, source, self._progress(number, op), self._plan.source_date_epoch, remotes)
            self._tell_found(op.source, step.selections)
            unread = step.unread()
            if not unread or step.small(unread) or op.unpack:
                key = copy_key(op, chain, step.content(), self._plan.source_date_epoch)
                stack.enter_context(self._alone(key))
                record = self._lookup(key, stage, look, step.listing)
                if record is not None:
                    return record
            with self._in.store.blobs.create() as blob:
                packed = copying.pack(step, image, self._in.store, self._in.workers, blob)
                key = copy_key(op, chain, step.content(), self._plan.source_date_epoch)
                record = self._lookup(key, stage, look, step.listing)
                if record is not None:
                    return record
                self._keep(blob, packed)
            look.miss(key, step.listing)
            names = [*op.sources, *(redacted(_address(remote)) for remote in op.remotes)]
            return self._record(key, packed.diff_id, packed.size, f"{op.instruction} {' '.join(names)}", look)

    def _fetch(self, remote: Remote, op: CopyOp, number: int) -> LayerSource:
        match remote:
            case RemoteFile():
                return self._in.remotes.source(remote, self._progress(number, op))
            case RemoteTree():
                return stage_source(self._in.store, [self._in.remotes.layer(remote)])
            case _ as unreachable:
                assert_never(unreachable)

    def _workdir(self, op: WorkdirOp, stage: PlannedStage, state: StageState, look: Look) -> CacheRecord:
        key = workdir_key(op, chain_id(state.diff_ids), self._plan.source_date_epoch)
        record = self._lookup(key, stage, look)
        if record is not None:
            return record
        look.miss(key, no_listing)
        with stage_source(self._in.store, state.diff_ids) as image, self._in.store.blobs.create() as blob:
            packed = copying.pack_directory(op, image, self._plan.source_date_epoch, blob)
            self._keep(blob, packed)
        return self._record(key, packed.diff_id, packed.size, f"WORKDIR {op.path}", look)

    def _source_of(self, op: CopyOp) -> "_Borrowed | LayerSource":
        return self._open_source(op.source)

    def _layers_of(self, source: MountSource) -> list[Digest] | None:
        match source:
            case FromStage(index=index):
                return self._state_of(index).diff_ids
            case FromImage():
                return self._in.images[source.key].rootfs.diff_ids
            case FromScratch():
                return []
            case FromContext() | FromNamed():
                return None
            case _ as unreachable:
                assert_never(unreachable)

    def _open_source(self, source: MountSource) -> "_Borrowed | LayerSource":
        match source:
            case FromContext():
                return _Borrowed(self._in.context, self._context_lock)
            case FromNamed(name=name):
                opened = self._in.named.open(name)
                return _Borrowed(opened.source, opened.lock)
            case FromStage(index=index):
                return stage_source(self._in.store, self._state_of(index).diff_ids)
            case FromImage():
                return stage_source(self._in.store, self._in.images[source.key].rootfs.diff_ids)
            case FromScratch():
                return stage_source(self._in.store, [])
            case _ as unreachable:
                assert_never(unreachable)

    def _tell_found(self, source: MountSource, selections: Sequence[Selected]) -> None:
        """Tell who waits for changes where the links of a context have led."""
        context = reading.context_of(source) if self._in.request.watch else None
        if context is not None:
            self._in.emit(reading.found(selections, context))

    def _progress(self, number: int, op: CopyOp) -> Callable[[int, int], None]:
        last = 0.0

        def report(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if self._in.cancel.is_set():
                raise CancelledError("the build was cancelled")
            if now - last > 0.1 or done == total:
                last = now
                self._in.emit(Transfer(number, op.instruction.lower(), done, total))

        return report


class _Borrowed:
    """The shared context, one step at a time: its lazy listing is not made for several threads."""

    def __init__(self, context: ContextSource, lock: Lock) -> None:
        self._context = context
        self._lock = lock

    def __enter__(self) -> Source:
        self._lock.acquire()
        return self._context

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Reads(NamedTuple):
    """See mounting.Reads."""

    open: "Callable[[MountSource], _Borrowed | LayerSource]"
    layers: Callable[[MountSource], list[Digest] | None]
    check: Callable[[], None]
    found: Callable[[MountSource, Sequence[Selected]], None]


class _Abandoned(CancelledError):
    """This stage stopped because another one failed."""

    def __init__(self) -> None:
        super().__init__("stopped because another stage failed")


def _address(remote: Remote) -> str:
    return remote.url if isinstance(remote, RemoteFile) else remote.address


def timestamp(seconds: float) -> str:
    """Return seconds since the epoch in RFC 3339 as Go writes it."""
    whole = int(seconds)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    nanoseconds = int((seconds - whole) * 1e9)
    return f"{text}.{nanoseconds:09d}".rstrip("0").rstrip(".") + "Z"


Shown = tuple[tuple[int, int], str, str, int]
"""A step that is shown: (stage, position), label, stage's name, line."""


def numbered(stages: Sequence[PlannedStage]) -> list[Shown]:
    """Return ((stage, position), label, stage name, line) of each step that is shown; position 0 is FROM."""
    shown: list[Shown] = []
    alone = len(stages) == 1
    for stage in stages:
        total = 1 + sum(step.op is not None for step in stage.steps)
        prefix = "" if alone and stage.name.startswith("stage-") else stage.name + " "
        count = 1
        shown.append(((stage.index, 0), f"[{prefix}1/{total}] {stage.from_display}", stage.name, stage.line))
        for position, step in enumerate(stage.steps):
            if step.op is not None:
                count += 1
                label = f"[{prefix}{count}/{total}] {step.display}"
                shown.append(((stage.index, position + 1), label, stage.name, step.line))
    return shown
