"""The engine behind HTTP on a unix socket, for this user only.

Paths and values are those of the Docker Engine API; what it has no word for is below `/pybuild/v1/`. The loop
thread only moves bytes: every call of the engine runs in a thread of its own.
"""
