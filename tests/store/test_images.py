"""Images by id and name."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pybuild.errors import ConflictError, NotFoundError
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import OCI_LAYER_GZIP, Descriptor, InvalidImageError
from pybuild.oci.reference import InvalidReferenceError, parse_reference
from pybuild.store.errors import MissingContentError
from pybuild.store.store import Store
from store.conftest import add_layer, config_of


def resolved(store: Store, name: str) -> Digest | None:
    record = store.images.resolve(name)
    return record.id if record else None


def test_an_image_is_found_by_all_its_names(store: Store) -> None:
    config = config_of(add_layer(store, b"layer"), kind="test")
    identity = store.images.put(config, tags=[parse_reference("app:1"), parse_reference("host.example:5000/team/app")])
    assert identity == digest_of(config)
    for name in (
        "app:1",
        "docker.io/library/app:1",
        "library/app:1",
        "host.example:5000/team/app",
        "host.example:5000/team/app:latest",
        identity,
        identity[7:],
        identity[:19],
        identity[7:19],
        identity[7:8],
        f"app@{identity}",
        f"app:1@{identity}",
    ):
        assert resolved(store, name) == identity, name
    for name in ("app", "app:2", "other/app:1", f"app:1@{digest_of(b'x')}", f"other@{identity}", "0" * 64):
        assert resolved(store, name) is None, name
    record = store.images.resolve("app:1")
    assert record is not None
    assert record.tags == ("app:1", "host.example:5000/team/app:latest")
    assert record.data == config
    assert record.config.config.Labels == {"kind": "test"}
    assert record.size == 5
    assert record.diff_ids == [digest_of(b"layer")]
    assert [str(reference) for reference in record.references] == [
        "docker.io/library/app:1",
        "host.example:5000/team/app:latest",
    ]


def test_what_is_neither_name_nor_id_is_refused(store: Store) -> None:
    for name in ("UPPER", "a:b:c", "", "a b", "\x1b[31m"):
        with pytest.raises(InvalidReferenceError):
            store.images.resolve(name)


def test_a_name_wins_over_the_beginning_of_an_id(store: Store) -> None:
    first = store.images.put(config_of(n="1"))
    prefix = first[7:11]
    assert resolved(store, prefix) == first
    second = store.images.put(config_of(n="2"), tags=[parse_reference(prefix)])
    assert resolved(store, prefix) == second
    assert resolved(store, f"sha256:{prefix}") == first


def test_ids_can_be_left_out_of_the_question(store: Store) -> None:
    identity = store.images.put(config_of())
    for name in (identity, identity[7:], identity[7:19]):
        assert store.images.resolve(name, ids=False) is None


def test_an_ambiguous_beginning_is_told(store: Store) -> None:
    known: dict[str, Digest] = {}
    for number in range(100):
        identity = store.images.put(config_of(n=str(number)))
        if identity[7] in known:
            with pytest.raises(ConflictError):
                store.images.resolve(identity[7])
            assert resolved(store, identity[7:27]) == identity
            return
        known[identity[7]] = identity
    raise AssertionError("there are sixteen digits only")


def test_tags_move(store: Store) -> None:
    one, two = store.images.put(config_of(n="1")), store.images.put(config_of(n="2"))
    name = parse_reference("app")
    store.images.tag(name, one)
    store.images.tag(name, two)
    assert resolved(store, "app") == two
    store.images.put(config_of(n="1"), tags=[name])
    assert resolved(store, "app") == one
    assert store.images.untag(name)
    assert not store.images.untag(name)
    assert resolved(store, "app") is None
    with pytest.raises(NotFoundError):
        store.images.tag(name, digest_of(b"absent"))
    with pytest.raises(InvalidReferenceError):
        store.images.tag(parse_reference(f"app@{one}"), one)


def test_deleting_takes_the_names_too(store: Store) -> None:
    identity = store.images.put(config_of(), tags=[parse_reference("a"), parse_reference("b")])
    assert store.images.delete(identity)
    assert not store.images.delete(identity)
    assert store.images.list() == []
    assert resolved(store, "a") is None
    # What was built again is there again
    assert store.images.put(config_of(), tags=[parse_reference("a")]) == identity
    assert resolved(store, "a") == identity


def test_the_newest_comes_first_and_stays_as_old_as_it_is(store: Store) -> None:
    ids = [store.images.put(config_of(n=str(number))) for number in range(3)]
    assert [record.id for record in store.images.list()] == ids[::-1]
    created = store.images.list()[-1].created
    store.images.put(config_of(n="0"), tags=[parse_reference("again")])
    assert store.images.list()[-1].created == created
    assert store.images.list()[-1].tags == ("again:latest",)


def test_an_image_needs_its_layers(store: Store) -> None:
    with pytest.raises(MissingContentError):
        store.images.put(config_of(digest_of(b"absent")), tags=[parse_reference("a")])
    assert store.images.list() == []
    assert resolved(store, "a") is None


def test_what_is_no_config_is_refused(store: Store) -> None:
    for data in (b"", b"[]", b"{", b'{"os":1}'):
        with pytest.raises(InvalidImageError):
            store.images.put(data)


def test_forms_come_with_a_manifest(store: Store) -> None:
    diff_id = add_layer(store, b"tar")
    gzip = store.blobs.put(b"gzip")
    form = Descriptor(OCI_LAYER_GZIP, gzip, 4)
    store.images.put(config_of(diff_id), manifest=[form])
    assert store.layers.forms(diff_id) == [form]
    with pytest.raises(InvalidImageError):
        store.images.put(config_of(diff_id), manifest=[])


def test_putting_the_same_again_writes_nothing(store: Store) -> None:
    tags = [parse_reference("a"), parse_reference("b")]
    config = config_of(add_layer(store, b"x"))
    store.images.put(config, tags=tags)
    version = store.index.row("PRAGMA data_version"), store.index._connection().total_changes
    store.images.put(config, tags=tags)
    assert (store.index.row("PRAGMA data_version"), store.index._connection().total_changes) == version


def test_many_threads_tag_at_once(root: Path) -> None:
    with Store.open(root) as store:
        ids = [store.images.put(config_of(n=str(number))) for number in range(4)]
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda number: store.images.tag(parse_reference(f"t{number % 20}"), ids[number % 4]), range(200)
                )
            )
        assert sum(len(record.tags) for record in store.images.list()) == 20
