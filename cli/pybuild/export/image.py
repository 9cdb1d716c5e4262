"""What exporters are given: an image as values, and ways to read its layers."""

from collections.abc import Callable

import msgspec

from pybuild.oci.digest import Digest
from pybuild.oci.image import Descriptor, ImageConfig
from pybuild.oci.reference import Reference


class ExportImage(msgspec.Struct, frozen=True):
    """An image to be written somewhere.

    `config_bytes` are what the id is the digest of. `open_layer` gives a descriptor of an uncompressed layer,
    owned by the caller; `compressed` gives a compressed form of one: its descriptor and a file descriptor. With
    `by_platform` an index of platforms comes before the manifest, though it has one alone.
    """

    id: Digest
    config_bytes: bytes
    config: ImageConfig
    names: tuple[Reference, ...]
    layer_size: Callable[[Digest], int]
    open_layer: Callable[[Digest], int]
    compressed: Callable[[Digest, str], tuple[Descriptor, int]]
    by_platform: bool = False
