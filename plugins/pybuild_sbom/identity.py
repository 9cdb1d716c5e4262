"""What both formats say of a document: when it was made, and names that are the same for the same contents."""

import os
import re
import uuid
from datetime import UTC, datetime

from pybuild.plugin import VERSION, UsageError
from pybuild_sbom.reading import Contents

_NAMES = uuid.UUID("6f6f9c9e-5c0e-5a5e-9d3c-3f1f3a0e7b11")
"""The name space that identities are derived in; it stays."""

_MAIL = re.compile(r"[\w.+-]+@[A-Za-z0-9.-]+", re.ASCII)
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d{1,5})?(?:/[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]*)?")


def moment(contents: Contents) -> datetime:
    """Return the time a document is of: SOURCE_DATE_EPOCH, else when the image was made; raise UsageError."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if text:
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise UsageError(f"SOURCE_DATE_EPOCH is a number of seconds, not: {text}")
        return datetime.fromtimestamp(int(text), UTC)
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", contents.created)
    found = datetime.fromisoformat(match[1]).replace(tzinfo=UTC) if match else datetime.fromtimestamp(0, UTC)
    return max(found, datetime.fromtimestamp(0, UTC))


def identity(contents: Contents, format: str) -> uuid.UUID:
    """Return a name for a document about these contents in a format: it differs if anything of it does."""
    words = [format, VERSION, contents.name, contents.id, *contents.digests, moment(contents).isoformat()]
    words += [repr(package) for package in contents.packages]
    return uuid.uuid5(_NAMES, "\n".join(words))


def image_purl(contents: Contents) -> str:
    """Return the package URL of an image that a repository knows, "" for another one."""
    from packageurl import PackageURL

    for known in contents.digests:
        repository, _, digest = known.partition("@")
        name = repository.rpartition("/")[2].lower()
        tag = contents.name.rpartition("/")[2].partition(":")[2] or None
        qualifiers = {"repository_url": repository, "tag": tag, "arch": contents.platform.split("/")[1]}
        return PackageURL(
            "oci", None, name, digest, {key: value for key, value in qualifiers.items() if value}
        ).to_string()
    return ""


def supplier_parts(text: str) -> tuple[str, str]:
    """Return name and mail of "Name <mail>", either of which may be "" ."""
    match = re.fullmatch(r"\s*(.*?)\s*<([^<>]*)>\s*", text)
    if match is not None:
        name, mail = match[1].strip('" '), match[2].strip()
        return name, mail if _MAIL.fullmatch(mail) else ""
    return text.strip(), ""


def is_url(text: str) -> bool:
    """Tell whether a text can stand where a document has an address."""
    return _URL.fullmatch(text) is not None
