"""What can be asked of images, in the shapes of the Docker Engine API."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Flag
from typing import Any, BinaryIO

import msgspec

from pybuild.engine import exporting, importing
from pybuild.engine.choosing import Filters, chosen
from pybuild.engine.comparing import compared, compared_indexes
from pybuild.engine.lookup import (
    all_complete,
    complete,
    for_platform,
    id_of,
    members_of,
    named_record,
    reference_in,
    resolve,
)
from pybuild.engine.prunefilters import prune_filters
from pybuild.engine.recorded import recorded
from pybuild.engine.shapes import Rows, as_image, full_config, layer_size, manifests, rfc3339, row_of, summary, unix
from pybuild.engine.whole import make_whole
from pybuild.engine.workers import Workers
from pybuild.errors import ConflictError
from pybuild.oci.reference import parse_reference
from pybuild.store.images import ImageRecord
from pybuild.store.indexes import IndexRecord
from pybuild.store.store import Store

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
            rows = [*alone, *(as_image(index, images) for index in indexes)]
            rows.sort(key=lambda row: -row.created)
            digests = store.pulled.digests()
            for index in indexes:
                digests[index.id] = sorted({one for image in index.images for one in digests.get(image, ())})
            return [summary(row, digests.get(row.id, [])) for row in chosen(rows, filters or {}, store)]

    def inspect(self, name: str, platform: str = "") -> dict[str, Any]:
        """Return one image as `GET /images/{name}/json`, of an index that for `platform`; raise NotFoundError."""
        with self._store() as store:
            record = for_platform(store, name, platform) if platform else resolve(store, name)
            index = None if platform else store.images.index(name)
            config = record.config
            known = store.pulled.digests()
            digests = known.get(record.id, [])
            if index is not None:
                record = as_image(index, {image.id: image for image in members_of(store, index)}, record)
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
                "Config": {"Hostname": "", "Domainname": "", "Image": "", **full_config(details)},
                "Architecture": config.architecture,
                **({"Variant": config.variant} if config.variant else {}),
                "Os": config.os,
                "Size": record.size,
                "GraphDriver": {"Data": None, "Name": "overlay2"},
                "RootFS": {"Type": "layers", "Layers": [*config.rootfs.diff_ids]},
                "Metadata": {"LastTagTime": rfc3339(record.created)},
                **({"Manifests": manifests(store, index)} if index is not None else {}),
            }

    def history(self, name: str) -> Rows:
        """Return the history, newest first, as `GET /images/{name}/history`; raise NotFoundError."""
        with self._store() as store:
            record = resolve(store, name)
            layers = iter(record.config.rootfs.diff_ids)
            rows: Rows = []
            for line in record.config.history or ():
                diff_id = None if line.empty_layer else next(layers, None)
                rows.append(
                    {
                        "Id": "<missing>",
                        "Created": unix(line.created),
                        "CreatedBy": line.created_by,
                        "Tags": None,
                        "Size": layer_size(store, diff_id) if diff_id else 0,
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
            found = recorded(store, (store.images.index(name) or resolve(store, name)).id)
            if found is None:
                return {}
            platform = str(found.request.get("platform") or "")
            changed = [base for base, id in found.bases.items() if id_of(store, base, platform) != id]
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
                for image in (*members_of(store, index), *members_of(store, rebuilt)):
                    make_whole(store, image)
                return compared_indexes(store, index, rebuilt)
            first, second = complete(store, name), complete(store, other)
            return {"image": first.id, "rebuilt": second.id, "differences": compared(store, first, second)}

    def layers(self, name: str) -> dict[str, Any]:
        """Return an image with the tables of its layers, the lowest first; raise NotFoundError.

        `{"image", "names", "size", "layers": [{digest, size, created, created_by, entries}]}`; an entry is a list of
        path, type, mode, uid, gid, size, mtime, link, hex digest and whether a directory is opaque, as `tree.Entry`
        has them.
        """
        with self._store() as store, store.session():
            record = complete(store, name)
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
                        "entries": [row_of(entry) for entry in store.layers.toc(diff_id)],
                    }
                )
            return {"image": record.id, "names": [*record.tags], "size": record.size, "layers": layers}

    def files(self, name: str, paths: Sequence[str], out: BinaryIO) -> None:
        """Write a tar of the files at these paths of the image's tree, which are as `layers` tells them.

        No link is followed, and what is no file is left out. Raises NotFoundError before the first byte.
        """
        with self._store() as store, store.session():
            record = complete(store, name)
            exporting.files(store, record, [path.encode(errors="surrogateescape") for path in paths], out)

    def tag(self, name: str, new_name: str) -> None:
        """Give the image another name; raise NotFoundError or InvalidReferenceError."""
        with self._store() as store, store.session():
            store.images.tag(parse_reference(new_name), named_record(store, name).id)

    def remove(self, name: str, *, force: bool = False) -> Strings:
        """Take a name away, and the image with its last name, as `DELETE /images/{name}`.

        Raises NotFoundError, and ConflictError for an id with several names unless `force`.
        """
        with self._store() as store, store.session():
            record = named_record(store, name)
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
            found = [(all_complete(store, name, platform), reference_in(name)) for name in names]
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
            record = all_complete(store, name)
            named = reference_in(name)
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
            wanted = prune_filters(filters or {})
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


def _delete(store: Store, record: ImageRecord | IndexRecord) -> Strings:
    """Remove an image, or an index and those of its images that nothing else has; tell what went."""
    if isinstance(record, ImageRecord):
        store.images.delete(record.id)
        return [{"Deleted": record.id}]
    store.indexes.delete(record.id)
    gone = [record.id]
    for image in {image.id: image for image in members_of(store, record)}.values():
        if not image.tags and not store.indexes.holding(image.id):
            store.images.delete(image.id)
            gone.append(image.id)
    return [{"Deleted": identity} for identity in gone]
