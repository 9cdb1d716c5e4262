"""The rules of style by name; `hadolint` are that program's codes for them, so that its comments count here too."""

from typing import NamedTuple

from pybuild.plugin import LintRule


class Style(NamedTuple):
    """A rule; a `strict` one only speaks when that is asked for."""

    rule: LintRule
    hadolint: tuple[str, ...] = ()
    strict: bool = False


def _style(
    name: str, hadolint: str, about: str, reason: str, example: str, *, strict: bool = False
) -> tuple[str, Style]:
    return name, Style(LintRule(name, about, reason, example), tuple(hadolint.split()), strict)


STYLES: dict[str, Style] = dict(
    (
        _style(
            "BaseWithoutVersion",
            "DL3006 DL3007",
            "FROM names no version, or latest",
            "The base changes under your feet, and nobody can say later what an image was made of.",
            "FROM debian:12",
        ),
        _style(
            "Sudo",
            "DL3004",
            "A command calls sudo",
            "Steps run as root already, or as the USER; sudo keeps signals and the environment from programs.",
            "USER root, and USER app after the step",
        ),
        _style(
            "CdInsteadOfWorkdir",
            "DL3003",
            "A step begins with cd",
            "The next step is back where it was; WORKDIR lasts, and makes the directory.",
            "WORKDIR /src",
        ),
        _style(
            "AptWithoutYes",
            "DL3014",
            "apt-get install waits for an answer",
            "Nobody is there to give it, so the step fails.",
            "apt-get install -y curl",
        ),
        _style(
            "AptRecommends",
            "DL3015",
            "apt-get install takes recommended packages too",
            "They are often more than what was asked for, and are in the image for good.",
            "apt-get install -y --no-install-recommends curl",
        ),
        _style(
            "AptLists",
            "DL3009",
            "Package lists of apt stay in the layer",
            "They are some 20 MB that are out of date soon. What a later step removes is in the layer all the same.",
            "... && rm -rf /var/lib/apt/lists/*, or RUN --mount=type=cache,target=/var/lib/apt/lists",
        ),
        _style(
            "AptUpdateAlone",
            "",
            "apt-get update has a step of its own",
            "The step comes from the cache when the next one changes, and then installs from lists of long ago.",
            "RUN apt-get update && apt-get install -y --no-install-recommends curl",
        ),
        _style(
            "AptForPeople",
            "DL3027",
            "apt is for people at a terminal",
            "Its options and output may change; apt-get's do not.",
            "apt-get install -y curl",
        ),
        _style(
            "ApkCache",
            "DL3019",
            "The index of apk stays in the layer",
            "It is out of date soon and of no use in the image.",
            "apk add --no-cache curl",
        ),
        _style(
            "DnfCache",
            "DL3032 DL3040",
            "The cache of yum or dnf stays in the layer",
            "It is often larger than what was installed. What a later step removes is in the layer all the same.",
            "dnf install -y curl && dnf clean all",
        ),
        _style(
            "DnfWithoutYes",
            "DL3030 DL3038",
            "yum or dnf install waits for an answer",
            "Nobody is there to give it, so the step fails.",
            "dnf install -y curl",
        ),
        _style(
            "PipCache",
            "DL3042",
            "The cache of pip stays in the layer",
            "It holds once more what was installed.",
            "pip install --no-cache-dir flask, or RUN --mount=type=cache,target=/root/.cache/pip",
        ),
        _style(
            "AddInsteadOfCopy",
            "DL3020",
            "ADD where COPY does the same",
            "ADD unpacks archives and fetches addresses; COPY says that nothing of the kind is meant.",
            "COPY app.py /app/",
        ),
        _style(
            "PipeHidesFailure",
            "DL4006",
            "A pipe hides that its first command failed",
            "The step fails only when the last command does, so that an empty download builds well.",
            'SHELL ["/bin/bash", "-o", "pipefail", "-c"]',
        ),
        _style(
            "DownloadToShell",
            "",
            "What is downloaded is run at once",
            "Nobody can say what ran, and a connection that breaks runs half of it.",
            "ADD --checksum=sha256:... https://host/install.sh /tmp/, then run it",
        ),
        _style(
            "LastUserRoot",
            "DL3002",
            "The image runs as root",
            "Whoever breaks out of the program is root in the container.",
            "USER app as the last USER",
        ),
        _style(
            "RelativeDestination",
            "DL3045",
            "A relative destination without a WORKDIR",
            "Where it lands depends on the base image.",
            "COPY app.py /app/, or WORKDIR /app before it",
        ),
        _style(
            "NoInit",
            "DL3001",
            "A command that needs a running system",
            "There is no init and no services during a build, and none in most containers.",
            'CMD ["nginx", "-g", "daemon off;"] instead of RUN service nginx start',
        ),
        _style(
            "OwnerInStepOfItsOwn",
            "",
            "A step changes owner or mode of what was just copied",
            "All the files are in two layers then.",
            "COPY --chown=app --chmod=755 src /app",
        ),
        _style(
            "UserWithHugeLog",
            "DL3046",
            "useradd makes a huge sparse file",
            "With a high user id /var/log/lastlog is that large, and archives of layers write it in full.",
            "useradd --no-log-init -u 1000000 app",
        ),
        _style(
            "PackageWithoutVersion",
            "DL3008 DL3013 DL3016 DL3018 DL3028",
            "A package is installed in whatever version there is",
            "Another day makes another image.",
            "apt-get install -y curl=7.88.1-10",
            strict=True,
        ),
        _style(
            "StepsInARow",
            "DL3059",
            "RUN follows RUN",
            "Each makes a layer; one step with && makes one.",
            "RUN a && b",
            strict=True,
        ),
    )
)
