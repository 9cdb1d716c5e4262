"""One JSON object a line, for machines; SCHEMA.md describes them."""

import json
from typing import TextIO

from pybuild.api.events import Event, Failed, to_json
from pybuild.errors import ExitCode


class JsonRenderer:
    """Writes each event as it is: JSON itself escapes control characters, readers escape the rest."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, event: Event) -> None:
        """Write one line; ASCII only, so that no encoding of a terminal or log can break it."""
        if isinstance(event, Failed) and event.failure.exit_code != ExitCode.BUG:
            # How the program got there says nothing to whoever made a mistake in a Dockerfile
            event = event._replace(failure=event.failure._replace(traceback=""))
        self._out.write(json.dumps(to_json(event), separators=(",", ":")) + "\n")
        self._out.flush()

    def close(self) -> None:
        """Nothing is held back."""
