"""What a build fetches from elsewhere: files over HTTP, and git repositories. Knows nothing of stores and plans."""
