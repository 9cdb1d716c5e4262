"""Processes in worlds of their own: namespaces, id mappings, mounts, seccomp, and the worker that makes them.

`worker` is the parent's side, used by the engine; `child` the other one, a small single-threaded process that
enters a user namespace once and then does one job per fork. `spec` says what a RUN sees, `run` makes it so.
Imports are few and light: the child's start is part of every build.
"""
