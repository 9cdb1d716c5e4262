"""What a prune is to take: its filters, understood and checked against each other."""

import msgspec

from pybuild.engine.choosing import Filters
from pybuild.engine.moments import parse_until
from pybuild.errors import UsageError
from pybuild.store.least import Limits

CACHE_MOUNT = "exec.cachemount"
"""BuildKit's name for what a cache mount keeps."""

PRUNE_TYPES = {
    CACHE_MOUNT: "cache mount",
    "regular": "cache",
    "source.local": "context",
    "cache": "cache",
    "context": "context",
    "image": "image",
    "kept": "kept",
    "snapshot": "snapshot",
    "download": "download",
}
"""Values of the filter `type`, BuildKit's names first, and kinds of what is pruned."""


class PruneFilters(msgspec.Struct):
    """The filters of a prune, understood."""

    until: float | None = None
    labels: list[str] = []
    cache_ids: list[str] | None = None
    types: set[str] = set()
    max_size: int = 0
    min_free: int = 0

    @property
    def limits(self) -> Limits | None:
        """Return the limits that were asked for."""
        return Limits(self.max_size, self.min_free) if self.max_size or self.min_free else None


def prune_filters(filters: Filters) -> PruneFilters:
    """Return what the filters of a prune ask for; raise UsageError."""
    found = PruneFilters()
    for name, values in filters.items():
        match name:
            case "until" | "unused-for":
                found.until = parse_until(values[-1])
            case "label" | "label!":
                found.labels += [value if name == "label" else "!" + value for value in values]
            case "id":
                found.cache_ids = [*(found.cache_ids or ()), *values]
            case "type":
                found.types.update(map(_type, values))
            case "max-size" | "min-free":
                setattr(found, name.replace("-", "_"), _bytes(name, values[-1]))
            case "dangling":
                continue
            case _:
                raise UsageError(f"unknown filter: {name}", "known: until, label, id, type, max-size, min-free")
    _check_together(found)
    if found.types == {"cache mount"}:
        # By ids, or all of them
        found.cache_ids, found.types = found.cache_ids or [], set()
    return found


def _type(value: str) -> str:
    if value not in PRUNE_TYPES:
        raise UsageError(f"unknown type to prune: {value}", f"known: {', '.join(PRUNE_TYPES)}")
    return PRUNE_TYPES[value]


def _bytes(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise UsageError(f"the filter {name} is a number of bytes, not: {value}")
    return int(value)


def _check_together(found: PruneFilters) -> None:
    """Raise UsageError for filters that would take each other's meaning away."""
    if found.types - {"cache mount"} and found.cache_ids is not None:
        raise UsageError("the filter id is of cache mounts alone", f"give `type={CACHE_MOUNT}` or no type")
    if found.types and found.labels:
        raise UsageError("the filters label and type cannot be together", "label chooses images")
    if found.limits is not None and (found.types or found.labels or found.cache_ids or found.until is not None):
        raise UsageError("a limit of the store cannot be together with filters", "prune twice")
