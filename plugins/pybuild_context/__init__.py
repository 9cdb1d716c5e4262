"""`pybuild context`: how large a build context is, and why."""
