"""Layers as tar streams: written, read for their tables, unpacked below a directory, packed from an overlay.

What reads untrusted bytes or files of mapped ids runs in the worker, so imports here are few and light.
"""
