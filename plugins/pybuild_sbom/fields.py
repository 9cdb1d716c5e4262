"""Files of `Name: value` lines in paragraphs, as Debian's and Python's metadata are."""

from collections.abc import Iterator


def paragraphs(text: str) -> Iterator[dict[str, list[str]]]:
    """Yield the fields of each paragraph by their names in small letters, each with its values.

    A line that begins with a space goes on with the value before (deb822(5), RFC 822).
    """
    fields: dict[str, list[str]] = {}
    last: list[str] | None = None
    for line in text.splitlines():
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, None
        elif line[0] in " \t":
            if last is not None:
                last[-1] += "\n" + line[1:]
        else:
            name, colon, value = line.partition(":")
            if colon:
                last = fields.setdefault(name.strip().lower(), [])
                last.append(value.strip())
    if fields:
        yield fields


def first(fields: dict[str, list[str]], name: str) -> str:
    """Return the first line of a field's first value, "" without it."""
    values = fields.get(name)
    return values[0].partition("\n")[0].strip() if values else ""
