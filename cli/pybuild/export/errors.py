"""What can go wrong while an image is written or read.

PybuildError
├── ExportError             the destination does not take it
└── InvalidArchiveError     what is to be loaded is no image archive, or a damaged one
"""

from pybuild.errors import PybuildError


class ExportError(PybuildError):
    """The destination does not take the export."""


class InvalidArchiveError(PybuildError):
    """What is to be loaded is no image archive, or a damaged one."""

    http_status = 400
