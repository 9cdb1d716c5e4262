"""The commands of the group."""

from pybuild.plugin import Commands

app = Commands(
    "Look into .dockerignore: what it leaves out, and why.",
    {
        "lint": ("pybuild_ignore.lint:lint", "Find lines that do not do what they seem to, and what is missing"),
        "why": ("pybuild_ignore.why:why", "Tell which line decides about a path"),
        "test": ("pybuild_ignore.why:check", "Check that paths are left out, or stay"),
    },
)
