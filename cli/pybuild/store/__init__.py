"""All that pybuild keeps on disk: blobs, layers, images, the cache and unpacked trees, below one private directory.

Promises: a reader sees all of a thing or nothing of it, and a process killed at any moment loses only what it had not
committed. Files are not flushed one by one; what was written before a reboot is checked when it is first used after it.
Content only ever disappears while no build holds the shared lock. Everything may be called from several threads and
several processes at once.
"""
