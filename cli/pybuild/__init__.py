"""pybuild: a rootless container image builder that needs nothing but Python and Linux."""

__version__ = "0.1.0"
