"""The engine: what builds, whoever asks."""

import sys

if "typing_extensions" not in sys.modules:
    # msgspec takes from it what `typing` has since Python 3.11, and importing it takes a twentieth of a small build
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec as msgspec
    finally:
        del sys.modules["typing_extensions"]
