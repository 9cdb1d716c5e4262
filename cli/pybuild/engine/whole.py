"""Images whose layers are not all here made whole, when somebody wants to look into them.

A build that only adds to a base, and is pushed, leaves the base's layers where they are.
"""

from collections.abc import Callable, Sequence
from threading import Event as Flag

from pybuild.api.events import Event
from pybuild.engine import reach
from pybuild.engine.registries import RegistryClients
from pybuild.engine.workers import Workers
from pybuild.oci.digest import Digest
from pybuild.plan.ops import CopyOp, FromImage, FromStage, MountSource, Plan, PlannedStage, RunOp
from pybuild.store.images import ImageRecord
from pybuild.store.store import Store


def lacking(store: Store, diff_ids: Sequence[Digest]) -> list[Digest]:
    """Return those of an image's layers that are elsewhere."""
    absent = store.absent.list()
    # Hardly a store has any, and looking for each layer takes its time
    return [diff_id for diff_id in dict.fromkeys(diff_ids) if diff_id in absent and not store.layers.has(diff_id)]


def make_whole(
    store: Store,
    record: ImageRecord,
    emit: Callable[[Event], None] = lambda event: None,
    cancel: Flag | None = None,
) -> ImageRecord:
    """Fetch the layers of an image that are elsewhere, as the user's settings of this process say; return it.

    Raises RegistryError, LayerError, CancelledError.
    """
    if not lacking(store, record.diff_ids):
        return record
    from pybuild.engine.pulling import Puller

    cancel = cancel or Flag()
    with Workers(cancel) as workers, RegistryClients(reach.settings(), reach.proxies(), "", cancel) as clients:
        Puller(store, workers, clients, emit).complete(record)
    return store.images.get(record.id) or record


def read_images(plan: Plan) -> set[str]:
    """Return the images (`FromImage.key`) whose files a step of the plan looks into.

    Only COPY --link is done without the files below it.
    """
    roots: dict[int, str] = {}
    found: set[str] = set()

    def read(source: MountSource) -> None:
        if isinstance(source, FromImage):
            found.add(source.key)
        elif isinstance(source, FromStage) and source.index in roots:
            found.add(roots[source.index])

    for stage in plan.stages:
        root = _root(stage, roots)
        if root:
            roots[stage.index] = root
        for step in stage.steps:
            if root and step.op is not None and not (isinstance(step.op, CopyOp) and step.op.link):
                found.add(root)
            for source in _sources(step.op):
                read(source)
    return found


def _root(stage: PlannedStage, roots: dict[int, str]) -> str:
    """Return the image that a stage begins with, "" for none."""
    if isinstance(stage.base, FromImage):
        return stage.base.key
    return roots.get(stage.base.index, "") if isinstance(stage.base, FromStage) else ""


def _sources(op: object) -> list[MountSource]:
    match op:
        case CopyOp():
            return [op.source]
        case RunOp():
            return op.sources()
    return []
