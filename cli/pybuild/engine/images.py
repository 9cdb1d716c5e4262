"""What can be asked of images, in the shapes of the Docker Engine API."""

import fnmatch
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Flag
from typing import Any, BinaryIO

import msgspec

from pybuild.engine import exporting, importing
from pybuild.engine.comparing import differences
from pybuild.engine.inputs import host
from pybuild.engine.recorded import recorded
from pybuild.engine.whole import make_whole
from pybuild.engine.workers import Workers
from pybuild.errors import ConflictError, NotFoundError, UsageError
from pybuild.oci.digest import Digest
from pybuild.oci.manifests import fits, platform_of
from pybuild.oci.platform import normalise, parse_platform
from pybuild.oci.reference import Reference, parse_reference
from pybuild.store.images import ImageRecord
from pybuild.store.indexes import IndexRecord
from pybuild.store.least import Limits
from pybuild.store.store import Store
from pybuild.tree.entry import Entry

Filters = dict[str, list[str]]
Rows = list[dict[str, Any]]
Strings = list[dict[str, str]]


class Images:
    """The images of the store below `store_root`. Every call opens the store anew, so that a long-lived
    daemon holds nothing open between them.
    """

    def __init__(self, store_root: Path) -> None:
        self._root = store_root

    @contextmanager
    def _store(self) -> Iterator[Store]:
        with Store.open(self._root) as store:
            yield store

    @contextmanager
    def _writing(self) -> Iterator[tuple[Store, Workers]]:
        with self._store() as store, store.session(), Workers(Flag()) as workers:
            yield store, workers

    def list(self, all: bool = False, filters: Filters | None = None) -> Rows:
        """Return the images, newest first, as `GET /images/json`; raise UsageError for an unknown filter."""
        with self._store() as store:
            indexes = store.indexes.list()
            held = {image for index in indexes for image in index.images}
            images = {image.id: image for image in store.images.list()}
            # What an index holds is listed as that
            alone = [image for image in images.values() if image.tags or image.id not in held or all]
            rows = [*alone, *(_as_image(index, images) for index in indexes)]
            rows.sort(key=lambda row: -row.created)
            digests = store.pulled.digests()
            for index in indexes:
                digests[index.id] = sorted({one for image in index.images for one in digests.get(image, ())})
            return [_summary(row, digests.get(row.id, [])) for row in _filter(rows, filters or {}, store)]

    def inspect(self, name: str, platform: str = "") -> dict[str, Any]:
        """Return one image as `GET /images/{name}/json`, of an index that for `platform`; raise NotFoundError."""
        with self._store() as store:
            record = _for_platform(store, name, platform) if platform else _resolve(store, name)
            index = None if platform else store.images.index(name)
            config = record.config
            known = store.pulled.digests()
            digests = known.get(record.id, [])
            if index is not None:
                record = _as_image(index, {image.id: image for image in _members(store, index)}, record)
                digests = sorted({one for image in index.images for one in known.get(image, ())})
            details = msgspec.to_builtins(config.config)
            return {
                "Id": record.id,
                "RepoTags": [*record.tags],
                "RepoDigests": digests,
                "Parent": "",
                "Comment": config.history[-1].comment if config.history else "",
                "Created": config.created,
                "DockerVersion": "",
                "Author": config.author,
                "Config": {"Hostname": "", "Domainname": "", "Image": "", **_full_config(details)},
                "Architecture": config.architecture,
                **({"Variant": config.variant} if config.variant else {}),
                "Os": config.os,
                "Size": record.size,
                "GraphDriver": {"Data": None, "Name": "overlay2"},
                "RootFS": {"Type": "layers", "Layers": [*config.rootfs.diff_ids]},
                "Metadata": {"LastTagTime": _rfc3339(record.created)},
                **({"Manifests": _manifests(store, index)} if index is not None else {}),
            }

    def history(self, name: str) -> Rows:
        """Return the history, newest first, as `GET /images/{name}/history`; raise NotFoundError."""
        with self._store() as store:
            record = _resolve(store, name)
            layers = iter(record.config.rootfs.diff_ids)
            rows: Rows = []
            for line in record.config.history or ():
                diff_id = None if line.empty_layer else next(layers, None)
                rows.append(
                    {
                        "Id": "<missing>",
                        "Created": _unix(line.created),
                        "CreatedBy": line.created_by,
                        "Tags": None,
                        "Size": _layer_size(store, diff_id) if diff_id else 0,
                        "Comment": line.comment,
                    }
                )
            if rows:
                rows[-1].update(Id=record.id, Tags=[*record.tags] or None)
            return rows[::-1]

    def inputs(self, name: str) -> dict[str, Any]:
        """Return what an image was built from, {} when that is not known; raise NotFoundError.

        `request` is a BuildRequest as JSON values, `secrets`, `ssh` and `allow` are names of what it had besides,
        `bases` are ids of base images by name, with a platform behind it where that is not the build's;
        `changed_bases` are those whose names mean something else by now, or nothing.
        """
        with self._store() as store:
            found = recorded(store, (store.images.index(name) or _resolve(store, name)).id)
            if found is None:
                return {}
            platform = str(found.request.get("platform") or "")
            changed = [base for base, id in found.bases.items() if _id_of(store, base, platform) != id]
            return {
                "request": found.request,
                "secrets": found.secrets,
                "ssh": found.ssh,
                "allow": found.allow,
                "bases": found.bases,
                "changed_bases": changed,
            }

    def compare(self, name: str, other: str) -> dict[str, Any]:
        """Return how two images differ: `{"image", "rebuilt", "differences": [{path, field, image, rebuilt}]}`.

        The ids come first. Raises NotFoundError.
        """
        with self._store() as store, store.session():
            index, rebuilt = store.images.index(name), store.images.index(other)
            if index is not None and rebuilt is not None:
                for image in (*_members(store, index), *_members(store, rebuilt)):
                    make_whole(store, image)
                return _compare_all(store, index, rebuilt)
            first, second = _complete(store, name), _complete(store, other)
            return {"image": first.id, "rebuilt": second.id, "differences": _differences(store, first, second)}

    def layers(self, name: str) -> dict[str, Any]:
        """Return an image with the tables of its layers, the lowest first; raise NotFoundError.

        `{"image", "names", "size", "layers": [{digest, size, created, created_by, entries}]}`; an entry is a list of
        path, type, mode, uid, gid, size, mtime, link, hex digest and whether a directory is opaque, as `tree.Entry`
        has them.
        """
        with self._store() as store, store.session():
            record = _complete(store, name)
            steps = [line for line in record.config.history or () if not line.empty_layer]
            layers = []
            for index, diff_id in enumerate(record.config.rootfs.diff_ids):
                step = steps[index] if index < len(steps) else None
                layers.append(
                    {
                        "digest": diff_id,
                        "size": store.layers.size(diff_id),
                        "created": step.created if step else "",
                        "created_by": step.created_by if step else "",
                        "entries": [_row_of(entry) for entry in store.layers.toc(diff_id)],
                    }
                )
            return {"image": record.id, "names": [*record.tags], "size": record.size, "layers": layers}

    def files(self, name: str, paths: Sequence[str], out: BinaryIO) -> None:
        """Write a tar of the files at these paths of the image's tree, which are as `layers` tells them.

        No link is followed, and what is no file is left out. Raises NotFoundError before the first byte.
        """
        with self._store() as store, store.session():
            record = _complete(store, name)
            exporting.files(store, record, [path.encode(errors="surrogateescape") for path in paths], out)

    def tag(self, name: str, new_name: str) -> None:
        """Give the image another name; raise NotFoundError or InvalidReferenceError."""
        with self._store() as store, store.session():
            store.images.tag(parse_reference(new_name), _whole(store, name).id)

    def remove(self, name: str, *, force: bool = False) -> Strings:
        """Take a name away, and the image with its last name, as `DELETE /images/{name}`.

        Raises NotFoundError, and ConflictError for an id with several names unless `force`.
        """
        with self._store() as store, store.session():
            record = _whole(store, name)
            by_id = record.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))
            named = [] if by_id else [parse_reference(name).familiar()]
            names = [*record.tags] if by_id else [tag for tag in record.tags if tag in named]
            if by_id and len(names) > 1 and not force:
                short = record.id.removeprefix("sha256:")[:12]
                raise ConflictError(
                    f"unable to delete {short} (must be forced) - image is referenced in multiple repositories",
                    "remove its names one by one, or use `--force`",
                )
            holding = store.indexes.holding(record.id)
            if holding and not names:
                called = holding[0].tags[0] if holding[0].tags else holding[0].id
                raise ConflictError(f"unable to delete {name} - it belongs to the index {called}", "remove that")
            answer = []
            for tag in names:
                store.images.untag(parse_reference(tag))
                answer.append({"Untagged": tag})
            if set(names) == set(record.tags) and not holding:
                answer += _delete(store, record)
            return answer

    def save(
        self,
        names: Sequence[str],
        out: BinaryIO,
        *,
        format: str = "docker",
        compression: str = "none",
        platform: str = "",
    ) -> None:
        """Write images as one archive, of indexes those for `platform` alone if it is given.

        Raises NotFoundError before the first byte.
        """
        with self._store() as store, store.session():
            found = [(_all_complete(store, name, platform), _named(name)) for name in names]
            exporting.save(store, found, out, format=format, compression=compression)

    def load(self, source: BinaryIO | Path) -> Strings:
        """Take images in from an archive or an OCI layout directory; return `{"name"}` or `{"id"}` of each."""
        with self._writing() as (store, workers):
            return importing.load(store, workers, source)

    def import_(self, stream: BinaryIO, name: str, *, changes: Sequence[str] = (), message: str = "") -> str:
        """Make an image of one layer from a root file system archive and return its id."""
        with self._writing() as (store, workers):
            return importing.import_rootfs(store, workers, stream, name, changes, message)

    def export(
        self,
        name: str,
        type: str,
        out: BinaryIO,
        attrs: dict[str, str] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Write one image to `out` as an exporter of that type does; with `names` it goes by those, not by its own."""
        with self._store() as store, store.session():
            record = _all_complete(store, name)
            named = _named(name)
            if names is not None:
                shown = [parse_reference(given) for given in names]
            else:
                shown = [named] if named is not None else [parse_reference(tag) for tag in record.tags]
            exporting.write(store, record, shown, type, out, attrs or {})

    def builds(self) -> Rows:
        """Return the builds that can be explained, the newest first."""
        from pybuild.engine.explaining import builds

        with self._store() as store:
            return builds(store)

    def explain(self, build: str) -> dict[str, Any]:
        """Return why each step of a build was, or was not, cached; raise NotFoundError."""
        from pybuild.engine.explaining import explained

        with self._store() as store:
            return explained(store, build)

    def prune(self, *, all: bool = False, filters: Filters | None = None, dry_run: bool = False) -> dict[str, Any]:
        """Remove what nothing needs and tell each victim with its reason; raise ConflictError while builds run."""
        with self._store() as store, Workers(Flag()) as workers:
            wanted = _prune_filters(filters or {})
            report = store.prune(
                all=all,
                until=wanted.until,
                labels=wanted.labels,
                only_caches=wanted.cache_ids,
                types=wanted.types,
                limits=wanted.limits,
                dry_run=dry_run,
                remove_tree=workers.remove_if_possible,
            )
            items = [
                {
                    "kind": item.kind,
                    "name": item.name,
                    "size": item.size,
                    "reason": item.reason,
                    "last_used": item.last_used,
                }
                for item in report.items
            ]
            return {"items": items, "reclaimed": report.reclaimed}

    def flush(self) -> None:
        """Write the store to the disk, so that nothing of it needs a check after a reboot. Slow."""
        with self._store() as store:
            store.flush()

    def df(self) -> dict[str, Any]:
        """Return how much of the disk is used by what, in bytes, and each cache mount."""
        with self._store() as store:
            return {
                "rows": [
                    {
                        "type": row.type,
                        "total": row.total,
                        "active": row.active,
                        "size": row.size,
                        "reclaimable": row.reclaimable,
                    }
                    for row in store.df()
                ],
                "caches": [
                    {
                        "id": cache.shown,
                        "target": cache.target,
                        "size": store.caches.size(cache.name),
                        "created": cache.created,
                        "last_used": cache.last_used,
                    }
                    for cache in store.caches.list()
                ],
            }


def _resolve(store: Store, name: str) -> ImageRecord:
    record = store.images.resolve(name)
    if record is None:
        raise NotFoundError(f"No such image: {name if ':' in name or '@' in name else name + ':latest'}")
    return record


def _whole(store: Store, name: str) -> ImageRecord | IndexRecord:
    """Return the image, or the index, that a name means; raise NotFoundError."""
    return store.images.index(name) or _resolve(store, name)


def _members(store: Store, index: IndexRecord) -> list[ImageRecord]:
    found = [store.images.get(image) for image in index.images]
    return [image for image in found if image is not None]


def _as_image(index: IndexRecord, images: Mapping[Digest, ImageRecord], main: ImageRecord | None = None) -> ImageRecord:
    """Return an index as if it were one of its images, `main` or the first, but for what all of them take."""
    members = [images[image] for image in index.images if image in images]
    main = main or members[0]
    size = sum(image.size for image in {image.id: image for image in members}.values())
    return msgspec.structs.replace(main, id=index.id, tags=index.tags, created=index.created, size=size)


def _manifests(store: Store, index: IndexRecord) -> Rows:
    """Return the images of an index as docker shows them (`docker inspect`, API 1.48), with their ids."""
    rows: Rows = []
    for member, image in zip(index.members, _members(store, index), strict=True):
        rows.append(
            {
                "ID": member.row.digest,
                "Descriptor": msgspec.to_builtins(member.row),
                "Available": True,
                "Kind": "image",
                "Size": {"Content": image.size, "Total": image.size},
                "ImageData": {"Platform": member.row.platform or {}},
                "ImageId": image.id,
            }
        )
    return rows


def _differences(store: Store, first: ImageRecord, second: ImageRecord) -> Rows:
    return [
        {"path": row.path, "field": row.field, "image": row.first, "rebuilt": row.second}
        for row in differences(store, first, second)
    ]


def _compare_all(store: Store, index: IndexRecord, other: IndexRecord) -> dict[str, Any]:
    """Return how two indexes differ, platform by platform."""
    rows: Rows = []
    others = {str(platform_of(member.row)): member for member in other.members}
    for member in index.members:
        platform = str(platform_of(member.row))
        match = others.pop(platform, None)
        if match is None:
            rows.append({"path": "", "field": "platform", "image": platform, "rebuilt": "", "platform": platform})
            continue
        first, second = store.images.get(member.image), store.images.get(match.image)
        if first is not None and second is not None:
            rows += [{**row, "platform": platform} for row in _differences(store, first, second)]
    rows += [
        {"path": "", "field": "platform", "image": "", "rebuilt": platform, "platform": platform} for platform in others
    ]
    return {"image": index.id, "rebuilt": other.id, "differences": rows}


def _delete(store: Store, record: ImageRecord | IndexRecord) -> Strings:
    """Remove an image, or an index and those of its images that nothing else has; tell what went."""
    if isinstance(record, ImageRecord):
        store.images.delete(record.id)
        return [{"Deleted": record.id}]
    store.indexes.delete(record.id)
    gone = [record.id]
    for image in {image.id: image for image in _members(store, record)}.values():
        if not image.tags and not store.indexes.holding(image.id):
            store.images.delete(image.id)
            gone.append(image.id)
    return [{"Deleted": identity} for identity in gone]


def _complete(store: Store, name: str) -> ImageRecord:
    """Return an image whose layers are all here, fetched if need be; raise NotFoundError, RegistryError."""
    return make_whole(store, _resolve(store, name))


def _for_platform(store: Store, name: str, platform: str) -> ImageRecord:
    """Return the image for a platform that a name means, alone or in an index; raise NotFoundError, UsageError."""
    wanted = parse_platform(platform, host())
    record = _whole(store, name)
    if isinstance(record, ImageRecord):
        if fits(record.config, wanted):
            return record
        config = record.config
        there = [str(normalise(config.os, config.architecture, config.variant))]
    else:
        member = record.member_for(wanted)
        image = store.images.get(member.image) if member is not None else None
        if image is not None:
            return image
        there = [str(platform_of(member.row) or "unknown") for member in record.members]
    raise NotFoundError(f"No such image for {wanted}: {name}", f"there is one for {', '.join(there)}")


def _all_complete(store: Store, name: str, platform: str = "") -> ImageRecord | IndexRecord:
    """Return the image, or the index, that a name means, with all layers here; raise NotFoundError, RegistryError."""
    record = _for_platform(store, name, platform) if platform else _whole(store, name)
    if isinstance(record, ImageRecord):
        return make_whole(store, record)
    for image in _members(store, record):
        make_whole(store, image)
    return record


def _layer_size(store: Store, diff_id: Digest) -> int:
    """Return the size of a layer, as it is elsewhere if it is not here."""
    elsewhere = None if store.layers.has(diff_id) else store.absent.get(diff_id)
    return store.layers.size(diff_id) if elsewhere is None else elsewhere.descriptor.size


def _named(name: str) -> Reference | None:
    """Return the name as a reference, None when it is an id."""
    bare = name.removeprefix("sha256:")
    if name.startswith("sha256:") or (len(bare) >= 12 and all(char in "0123456789abcdef" for char in bare)):
        return None
    return parse_reference(name)


def _id_of(store: Store, base: str, platform: str) -> str:
    """Return what a base image (`FromImage.key`) means by now, "" for nothing; `platform` is that of the build."""
    reference, _, own = base.partition(" ")
    try:
        wanted = parse_platform(own or platform) if own or platform else host()
        record = store.images.resolve(reference, platform=wanted)
        if record is not None and (not own or fits(record.config, wanted)):
            return record.id
        pulled = store.pulled.get(parse_reference(reference), wanted)
    except UsageError:
        # The beginning of an id
        return ""
    return pulled.image_id if pulled is not None else ""


def _summary(record: ImageRecord, digests: Sequence[str]) -> dict[str, Any]:
    return {
        "Id": record.id,
        "ParentId": "",
        "RepoTags": [*record.tags],
        "RepoDigests": [*digests],
        "Created": _unix(record.config.created) or int(record.created),
        "Size": record.size,
        "SharedSize": -1,
        "Containers": -1,
        "Labels": record.config.config.Labels,
    }


def _full_config(details: dict[str, Any]) -> dict[str, Any]:
    """Docker shows these keys even when they are empty."""
    shown = {"User": "", "Env": None, "Cmd": None, "Entrypoint": None, "WorkingDir": "", "Labels": None}
    return {**shown, "Volumes": None, "OnBuild": None, **details}


def _unix(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return 0


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _filter(records: Sequence[ImageRecord], filters: Filters, store: Store) -> list[ImageRecord]:
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
            pivot = _resolve(store, value).created
            if name == "before":
                return lambda record: record.created < pivot
            return lambda record: record.created > pivot
        case "until":
            moment = parse_until(value)
            return lambda record: record.created < moment
    raise UsageError(f"unknown filter: {name}", "known: dangling, label, reference, before, since, until")


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


class _Filters(msgspec.Struct):
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


def _prune_filters(filters: Filters) -> _Filters:
    found = _Filters()
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


def _check_together(found: _Filters) -> None:
    """Raise UsageError for filters that would take each other's meaning away."""
    if found.types - {"cache mount"} and found.cache_ids is not None:
        raise UsageError("the filter id is of cache mounts alone", f"give `type={CACHE_MOUNT}` or no type")
    if found.types and found.labels:
        raise UsageError("the filters label and type cannot be together", "label chooses images")
    if found.limits is not None and (found.types or found.labels or found.cache_ids or found.until is not None):
        raise UsageError("a limit of the store cannot be together with filters", "prune twice")


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_until(text: str) -> float:
    """Return the moment `text` names: seconds since the epoch, an ISO date, or a duration back from now."""
    if text[-1:] in _UNITS and text[:-1].replace(".", "", 1).isdigit():
        return time.time() - float(text[:-1]) * _UNITS[text[-1]]
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise UsageError(f"not a time: {text}", "write `24h`, `2026-11-25` or seconds since the epoch") from error


def _row_of(entry: Entry) -> list[Any]:
    return [
        entry.path.decode(errors="surrogateescape"),
        entry.type,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size,
        entry.mtime,
        entry.link.decode(errors="surrogateescape"),
        entry.digest.hex(),
        entry.opaque,
    ]
