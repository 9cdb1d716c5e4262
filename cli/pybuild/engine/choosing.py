"""Which images a list shows: the filters of `GET /images/json`."""

import fnmatch
from collections.abc import Callable, Sequence

from pybuild.engine.lookup import resolve
from pybuild.engine.moments import parse_until
from pybuild.errors import UsageError
from pybuild.store.images import ImageRecord
from pybuild.store.store import Store

Filters = dict[str, list[str]]


def chosen(records: Sequence[ImageRecord], filters: Filters, store: Store) -> list[ImageRecord]:
    """Return the images that all filters let through, in order; raise UsageError, NotFoundError."""
    kept = list(records)
    for name, values in filters.items():
        for value in values:
            test = _test(name, value, store)
            kept = [record for record in kept if test(record)]
    return kept


def _test(name: str, value: str, store: Store) -> Callable[[ImageRecord], bool]:
    match name:
        case "dangling":
            wanted = value.lower() in ("1", "true", "t", "yes")
            return lambda record: (not record.tags) == wanted
        case "label":
            key, equals, text = value.partition("=")

            def labelled(record: ImageRecord) -> bool:
                labels = record.config.config.Labels or {}
                return key in labels and (not equals or labels[key] == text)

            return labelled
        case "reference":
            return lambda record: any(
                fnmatch.fnmatchcase(tag, value) or fnmatch.fnmatchcase(tag.rpartition(":")[0], value)
                for tag in record.tags
            )
        case "before" | "since":
            pivot = resolve(store, value).created
            if name == "before":
                return lambda record: record.created < pivot
            return lambda record: record.created > pivot
        case "until":
            moment = parse_until(value)
            return lambda record: record.created < moment
    raise UsageError(f"unknown filter: {name}", "known: dangling, label, reference, before, since, until")
