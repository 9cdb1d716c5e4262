"""Licences as databases name them, as expressions of SPDX (SPDX 2.3, annex D)."""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

_GNU = re.compile(r"(?P<name>(?:A|L)?GPL|GFDL)[ -]?v?(?P<version>\d(?:\.\d)?)(?P<later>\+)?", re.IGNORECASE)
_WORDS = re.compile(r"\(|\)|[^\s(),]+")
_NAMES = {
    "gpl": "GPL-1.0-or-later",
    "lgpl": "LGPL-2.0-or-later",
    "expat": "MIT",
    "asl": "Apache-2.0",
    "apache2": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "bsd-3": "BSD-3-Clause",
    "bsd-2": "BSD-2-Clause",
    "bsd3": "BSD-3-Clause",
    "artistic": "Artistic-1.0-Perl",
    "artistic-1": "Artistic-1.0",
    "cc0": "CC0-1.0",
    "mpl-1.1": "MPL-1.1",
    "mplv2.0": "MPL-2.0",
    "mpl-2": "MPL-2.0",
    "openldap": "OLDAP-2.8",
    "psf": "PSF-2.0",
    "zpl": "ZPL-2.1",
}
_WHOLE = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "asl 2.0": "Apache-2.0",
    "mit license": "MIT",
    "the mit license": "MIT",
    "isc license": "ISC",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3-clause license": "BSD-3-Clause",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
}
_LONGEST = 64  # characters of a name


class Licence(NamedTuple):
    """A licence: `expression` is one of SPDX, in which `unknown`, if any, is a LicenseRef for `text`."""

    expression: str
    text: str
    unknown: bool


def licence(text: str) -> Licence:
    """Return a licence as an expression; what SPDX has no name for gets one that is made of its text."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    text = " ".join(text.split())
    for candidate in (_WHOLE.get(text.lower(), ""), _translated(text), text):
        try:
            return Licence(str(canonicalize_license_expression(candidate)), text, "LicenseRef-" in candidate)
        except InvalidLicenseExpression:
            continue
    name = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
    if not name or len(name) > _LONGEST:
        name = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
    return Licence(f"LicenseRef-{name}", text, True)


def joined(licences: Sequence[Licence]) -> str:
    """Return one expression for licences that all hold, "" for none."""
    expressions = sorted({one.expression for one in licences})
    if len(expressions) == 1:
        return expressions[0]
    return " AND ".join(f"({one})" if " " in one else one for one in expressions)


def _translated(text: str) -> str:
    """Return an expression in which the names of Debian and Fedora are those of SPDX."""
    words = []
    for word in _WORDS.findall(text):
        gnu = _GNU.fullmatch(word)
        if word.lower() in ("and", "or", "with"):
            words.append(word.upper())
        elif gnu is not None:
            version = gnu["version"] if "." in gnu["version"] else f"{gnu['version']}.0"
            words.append(f"{gnu['name'].upper()}-{version}-{'or-later' if gnu['later'] else 'only'}")
        else:
            words.append(_NAMES.get(word.lower(), word))
    return " ".join(words)
