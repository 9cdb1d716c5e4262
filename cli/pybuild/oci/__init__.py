"""Values of the OCI image specification: digests, references, platforms, descriptors, configs. No I/O."""
