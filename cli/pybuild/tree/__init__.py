"""Tables of contents: what a layer, an image or a context holds, without any tree on disk. No I/O.

COPY destinations, wildcards, links and cache keys are all decided on these tables.
"""
