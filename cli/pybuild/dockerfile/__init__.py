"""The Dockerfile language: text in, instructions with their places out. No I/O.

`parse.parse` reads a file into stages of instructions whose words are still unexpanded; `words` expands them
once the variables are known; `ports`, `signals`, `modes`, `owners`, `durations` and `mounts` read the
expanded words. Everything here is bounded: strangers write Dockerfiles and base images' triggers too.
"""
