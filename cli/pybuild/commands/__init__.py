"""The command line: one file a command; flags in, result out.

Results go to standard output, everything else to standard error. A command returns its exit status, None for 0,
and raises PybuildError; `app.run` is the only place that catches. typer is imported in this room only, and by
`--help` nothing but `app` and `group`.
"""
