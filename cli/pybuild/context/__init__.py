"""What a build may read: ignore rules, a directory read in place, contexts as archives.

Nothing here follows a link out of the context root, and nothing trusts a name, a pattern or a file to stay
as it was a moment ago.
"""
