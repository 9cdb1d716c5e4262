"""Build checks: what a Dockerfile says that is allowed and likely meant otherwise. Pure; nothing is read or run.

`check.check` finds, `rules.RULES` describes. Names and messages are those of BuildKit, so that directives, scripts
and documentation written for it hold.
"""
