"""`pybuild check`: the build checks of the language, and rules of style."""
