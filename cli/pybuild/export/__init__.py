"""Images on their way out and in: OCI and docker archives, OCI layout directories, flat tars, local trees."""
