"""Cases of the Dockerfile language with what BuildKit makes of them; README.md tells the format."""
