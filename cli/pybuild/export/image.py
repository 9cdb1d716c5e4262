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


class ExportIndex(msgspec.Struct, frozen=True):
    """Images for several platforms, to be written with an index of them.

    `rows` are what the index says of each image: platform and annotations; digest and size come with writing.
    `main` is the place of the one that a reader of a single image is shown.
    """

    images: tuple[ExportImage, ...]
    rows: tuple[Descriptor, ...]
    names: tuple[Reference, ...]
    annotations: dict[str, str]
    main: int = 0
