"""`pybuild sbom`: which packages an image has, as a bill of materials."""
