"""The commands of the group."""

from pybuild.plugin import Commands

app = Commands(
    "See what a build would read, and what it never uses.",
    {"size": ("pybuild_context.size:size", "Show what makes a context large, and what to leave out")},
)
