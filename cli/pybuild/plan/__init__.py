"""From a Dockerfile and a request to what must be done: stages of ops with cache keys. Pure.

`make` returns a Plan, or NeedBases naming images whose config it lacks; config changes (ENV, LABEL, CMD)
are worked out here, filesystem changes (RUN, COPY, ADD, WORKDIR) become ops for the engine.
"""
