"""Registries (OCI distribution specification 1.1): images and blobs that come and go. Knows no stores and no plans."""
