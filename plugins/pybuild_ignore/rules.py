"""The rules by code."""

from pybuild.plugin import LintRule

MALFORMED, NOTHING, SHADOWED, TWICE, BRINGS_NOTHING, DEPTH, CLASS, COMMENT, NEEDLESS, SECRET, WALKS = (
    f"IGN{number:03}" for number in range(1, 12)
)

RULES = {
    rule.code: rule
    for rule in (
        LintRule(
            MALFORMED,
            "A pattern is malformed",
            "Every build of this context fails with it.",
            "[a-z] instead of [a-z",
        ),
        LintRule(
            NOTHING,
            "A pattern matches nothing",
            "Either it has a mistake, or what it was for is gone. Names that any checkout may have one day, such as"
            " .git, are not told of.",
            "build instead of biuld",
        ),
        LintRule(
            SHADOWED,
            "A pattern changes nothing",
            "Lines above it have decided already about all that it matches.",
            "docs alone instead of docs and docs/*.md",
        ),
        LintRule(TWICE, "A pattern stands there twice", "The second one says nothing new.", "one of the two lines"),
        LintRule(
            BRINGS_NOTHING,
            "A ! line brings back nothing",
            "It brings back only what a line above it has left out by that very path: a directory that was not left out"
            " itself does not bring back what is in it.",
            "!src/** instead of !src below **/*.log",
        ),
        LintRule(
            DEPTH,
            "A name is left out at the root only",
            "In .gitignore a name without a slash counts at any depth; in an ignore file of a build it counts at the"
            " root.",
            "**/*.log instead of *.log",
        ),
        LintRule(
            CLASS,
            "A ! stands for itself in a class",
            "In .gitignore [!a] is all but a; here that is [^a], and [!a] is ! or a.",
            "[^a] instead of [!a]",
        ),
        LintRule(
            COMMENT,
            "A # within a line begins no comment",
            "Only a line that begins with # is one; otherwise it is part of the pattern.",
            "the comment on a line of its own",
        ),
        LintRule(
            NEEDLESS,
            "What a build does not need is not left out",
            "Version control, dependencies and caches make the context large, and change what COPY . takes at each"
            " commit or run.",
            "**/node_modules",
        ),
        LintRule(
            SECRET,
            "What may hold a secret is not left out",
            "COPY . puts it into a layer, where whoever has the image can read it, even when a later step removes it.",
            ".env",
        ),
        LintRule(
            WALKS,
            "A ! line makes builds walk what is left out",
            "A builder has to look into directories that are left out, as this line may bring back something there.",
            "!dist/app.js instead of !**/app.js",
        ),
    )
}
