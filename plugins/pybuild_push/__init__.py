"""`pybuild push`: images to their registries."""
