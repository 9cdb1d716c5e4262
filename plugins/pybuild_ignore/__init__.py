"""`pybuild ignore`: what the ignore file of a build leaves out, why, and what is wrong with it."""
