"""What is imported in a lighter way than its own."""

import sys


def import_msgspec() -> None:
    """Import msgspec without typing_extensions, which takes a twentieth of a small build's time.

    msgspec takes from there what `typing` has had since Python 3.11. Not for a process with threads already: one of
    them might import that module meanwhile.
    """
    if "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec as msgspec
    finally:
        del sys.modules["typing_extensions"]
