"""How much of the disk things of the store take."""

from typing import TYPE_CHECKING

from pybuild.oci.digest import Digest
from pybuild.store.place import allocated

if TYPE_CHECKING:
    from pybuild.store.store import Store


def layer_size(store: "Store", diff_id: Digest) -> int:
    """Return the allocated bytes of a layer: its tar, its compressed forms and its table."""
    forms = store.index.rows("SELECT digest FROM forms WHERE diff_id = ?", (diff_id,))
    paths = {store.blobs.path(Digest(digest)) for digest in (diff_id, *(digest for (digest,) in forms))}
    return sum(allocated(path) for path in paths) + allocated(store.place.tocs / diff_id[7:])
