"""What lies on the disk."""

from pybuild.store.place import allocated
from pybuild.store.store import Store


def taken(store: Store) -> int:
    """Return the bytes of a store as they are once nobody has its index open."""
    beside = sum(allocated(path) for path in store.place.root.glob("index.sqlite-*"))
    return allocated(store.place.root) - beside
