"""The rules by name, in the order in which they are listed."""

from typing import NamedTuple

DOCUMENTATION = "https://docs.docker.com/go/dockerfile/rule/"


class Rule(NamedTuple):
    """A rule: `about` says what it is against; an `experimental` one only speaks when it was asked to.

    `slug` is its page below DOCUMENTATION, "" when it has none.
    """

    name: str
    slug: str
    about: str
    experimental: bool = False

    @property
    def url(self) -> str:
        """Return the address of its documentation, "" when it has none."""
        return f"{DOCUMENTATION}{self.slug}/" if self.slug else ""


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("StageNameCasing", "stage-name-casing", "A stage name has upper-case letters, though names ignore case"),
        Rule("FromAsCasing", "from-as-casing", "AS is written in another case than FROM"),
        Rule("NoEmptyContinuation", "no-empty-continuation", "An instruction is continued over an empty line"),
        Rule(
            "ConsistentInstructionCasing",
            "consistent-instruction-casing",
            "An instruction is written in another case than most of the file",
        ),
        Rule("DuplicateStageName", "duplicate-stage-name", "Two stages have the same name"),
        Rule("ReservedStageName", "reserved-stage-name", "A stage has a name that means something else"),
        Rule(
            "JSONArgsRecommended",
            "json-args-recommended",
            "A command in shell form gets its signals through a shell, which may keep them to itself",
        ),
        Rule("MaintainerDeprecated", "maintainer-deprecated", "MAINTAINER is deprecated, a label says the same"),
        Rule("UndefinedArgInFrom", "undefined-arg-in-from", "FROM uses a variable that no ARG before it declares"),
        Rule(
            "WorkdirRelativePath",
            "workdir-relative-path",
            "A relative WORKDIR depends on where the base image happens to be",
        ),
        Rule("UndefinedVar", "undefined-var", "A variable is used that nothing defines"),
        Rule(
            "MultipleInstructionsDisallowed",
            "multiple-instructions-disallowed",
            "An instruction is without effect, as a later one of its kind replaces it",
        ),
        Rule("LegacyKeyValueFormat", "legacy-key-value-format", "A pair is written without the = between its halves"),
        Rule("InvalidBaseImagePlatform", "", "A base image is for another platform than its stage"),
        Rule(
            "RedundantTargetPlatform",
            "redundant-target-platform",
            "FROM asks for the target platform, which it gets anyway",
        ),
        Rule(
            "SecretsUsedInArgOrEnv",
            "secrets-used-in-arg-or-env",
            "A variable seems to hold a secret, and stays readable in the image",
        ),
        Rule(
            "InvalidDefaultArgInFrom",
            "invalid-default-arg-in-from",
            "Without build arguments FROM has no valid image name",
        ),
        Rule(
            "FromPlatformFlagConstDisallowed",
            "from-platform-flag-const-disallowed",
            "FROM has its platform fixed, so that the file builds for that one only",
        ),
        Rule("CopyIgnoredFile", "copy-ignored-file", "A file is to be copied that the ignore file leaves out"),
        Rule(
            "InvalidDefinitionDescription",
            "invalid-definition-description",
            "The comment above a definition does not begin with the name it defines",
            experimental=True,
        ),
        Rule("ExposeProtoCasing", "expose-proto-casing", "The protocol of a port has upper-case letters"),
        Rule(
            "ExposeInvalidFormat",
            "expose-invalid-format",
            "A port has an address or a port of the host with it, which an image cannot hold",
        ),
    )
}
