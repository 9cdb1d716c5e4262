"""How a build failed, as BuildKit tells its clients: a status with the place in the Dockerfile. Pure."""

import base64
import json
import re

from pybuild.api.events import Failure
from pybuild.buildkit import messages
from pybuild.buildkit.grpc import Code, GrpcError

SOURCE = "github.com/moby/buildkit/errdefs.Source+json"
"""Clients print the lines of the file that this detail names."""

MAX_SOURCE = 128 << 10
"""How long a file may be to go along, in bytes: it travels in a header, twice encoded."""


def error_of(failure: Failure, text: bytes) -> GrpcError:
    """Return the error of a call; `text` is that of the Dockerfile, of which clients show the lines."""
    code = Code.CANCELLED if failure.kind == "CancelledError" else Code.UNKNOWN
    message = told(failure)
    details = []
    if failure.file and failure.line and 0 < len(text) <= MAX_SOURCE:
        last = failure.line + max(failure.source.count("\n"), 0)
        source = {
            "info": {
                "filename": failure.file,
                "data": base64.b64encode(text).decode(),
                "language": "Dockerfile",
            },
            "ranges": [{"start": {"line": line}, "end": {"line": line}} for line in range(failure.line, last + 1)],
        }
        details.append({"type_url": SOURCE, "value": json.dumps(source).encode()})
    status = {"code": int(code), "message": message, "details": details}
    return GrpcError(code, message, messages.STATUS.encode(status))


def told(failure: Failure) -> str:
    """Return the sentence of a failure. What programs look for of a RUN is in it."""
    message = failure.message
    if failure.status > 0 and "did not complete successfully" not in message:
        command = re.sub(r"\s*\\\n\s*", " ", failure.source).split("\n")[0]
        command = re.sub(r"^\s*RUN\s+", "", command, flags=re.IGNORECASE)
        if command:
            return f'process "{command}" did not complete successfully: exit code: {failure.status}'
        return f"{message}: did not complete successfully: exit code: {failure.status}"
    return f"{message} ({failure.hint})" if failure.hint else message
