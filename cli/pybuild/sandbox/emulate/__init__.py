"""Root for a user with one id: calls that the kernel would refuse are answered by a process of ours.

`filter` chooses the calls, `notify` is how the kernel asks, `supervisor` the process that answers: ids from a model
(`idcalls`, `credentials`), owners and devices from notes on the files (`filecalls`, `files`), found from where the
caller stands (`caller`). Most calls need only to be let through, and go the short way (`quick`). What a
process pretends to be travels with it as a resource limit (`identity`), so that forks, threads, exec and
orphans need no book-keeping. This is about fidelity, not a boundary: the supervisor can do nothing to the
image that the RUN could not do itself.
"""
