"""The table for those who come from kaniko: it has every flag, and each replacement is tried."""

import json
import re
import shlex
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support import registry, web
from support.here import Here, Told, make
from support.registry import LAYER, Registry, digest

GUIDE = Path(__file__).parents[2] / "packaging" / "ci" / "kaniko.md"
FLAGS = [
    "build-arg",
    "bucket",
    "cache",
    "cache-copy-layers",
    "cache-dir",
    "cache-repo",
    "cache-run-layers",
    "cache-ttl",
    "cleanup",
    "compressed-caching",
    "compression",
    "compression-level",
    "context",
    "context-sub-path",
    "custom-platform",
    "customPlatform",
    "destination",
    "digest-file",
    "dockerfile",
    "force",
    "force-build-metadata",
    "git",
    "ignore-path",
    "ignore-var-run",
    "image-download-retry",
    "image-fs-extract-retry",
    "image-name-tag-with-digest-file",
    "image-name-with-digest-file",
    "insecure",
    "insecure-pull",
    "insecure-registry",
    "kaniko-dir",
    "label",
    "log-format",
    "log-timestamp",
    "no-push",
    "no-push-cache",
    "oci-layout-path",
    "push-ignore-immutable-tag-errors",
    "push-retry",
    "registry-certificate",
    "registry-client-cert",
    "registry-map",
    "registry-mirror",
    "reproducible",
    "single-snapshot",
    "skip-default-registry-fallback",
    "skip-push-permission-check",
    "skip-tls-verify",
    "skip-tls-verify-pull",
    "skip-tls-verify-registry",
    "skip-unused-stages",
    "snapshot-mode",
    "snapshotMode",
    "tar-path",
    "tarPath",
    "target",
    "use-new-run",
    "verbosity",
    "whitelist-var-run",
]
"""Those of the executor's `cmd/executor/cmd/root.go`, versions 1.0 to 1.24."""

DOCKERFILE = """\
ARG BASE=scratch
FROM scratch AS first
LABEL stage=first
FROM scratch AS unused
COPY missing /
FROM $BASE
ARG NAME
LABEL name=$NAME
COPY f /f
"""


def rows() -> dict[str, str]:
    """Return what replaces each flag, "" for nothing."""
    found: dict[str, str] = {}
    for flag, second in re.findall(r"^\| `--([\w-]+)` \| (\S.*?) \|", GUIDE.read_text(), re.MULTILINE):
        assert flag not in found, f"twice: {flag}"
        found[flag] = "" if second == "—" else second.removeprefix("`").removesuffix("`")
    return found


ROWS = rows()


class Tried(NamedTuple):
    """A replacement as it was run: in what world, and how it ended."""

    here: Here
    remote: Registry
    place: Path
    result: Told

    @property
    def file(self) -> Path:
        return self.place / "file"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.result.err.splitlines()]

    def config(self) -> dict[str, Any]:
        """Return what is to be known of the image that was built."""
        [shown] = json.loads(self.here("inspect", self.events[-1]["image_id"]).text)
        return dict(shown)

    def pushed(self, name: str = "app", tag: str = "1") -> bytes:
        return self.remote.contents.documents[name, tag][1]


def is_built(tried: Tried) -> None:
    assert tried.events[-1]["event"] == "Built"
    # The stage that nobody needs has a COPY that fails
    assert "unused" not in tried.result.err


def took_argument(tried: Tried) -> None:
    assert tried.config()["Config"]["Labels"]["name"] == "value"


def has_store(tried: Tried) -> None:
    assert (tried.place / "dir" / "index.sqlite").exists()


def gave_cache(tried: Tried) -> None:
    assert "cacheconfig" in json.loads(tried.pushed(tag="cache"))["config"]["mediaType"]


def gave_plain_cache(tried: Tried) -> None:
    gave_cache(tried)
    assert {layer["mediaType"] for layer in json.loads(tried.pushed(tag="cache"))["layers"]} == {LAYER}


def has_zstd(tried: Tried) -> None:
    assert json.loads(tried.pushed())["layers"][0]["mediaType"] == f"{LAYER}+zstd"


def is_for_arm(tried: Tried) -> None:
    assert tried.config()["Architecture"] == "arm64"


def is_pushed(tried: Tried) -> None:
    assert tried.events[-1]["digest"] == digest(tried.pushed())


def wrote_digest(tried: Tried) -> None:
    assert tried.file.read_text() == digest(tried.pushed())


def wrote_names(tried: Tried) -> None:
    written = json.loads(tried.file.read_text())
    assert written["containerimage.digest"] == digest(tried.pushed())
    assert written["image.name"] == tried.remote.name("app:1")


def has_label(tried: Tried) -> None:
    assert tried.config()["Config"]["Labels"]["key"] == "value"


def told_plainly(tried: Tried) -> None:
    assert re.search(r"^#\d+ DONE|^#\d+ CACHED", tried.result.err, re.MULTILINE)


def told_nothing(tried: Tried) -> None:
    assert tried.result.text.startswith("sha256:")
    assert not tried.result.err


def wrote_layout(tried: Tried) -> None:
    assert (tried.place / "dir" / "layout" / "oci-layout").exists()


def wrote_archive(tried: Tried) -> None:
    with tarfile.open(tried.file) as archive:
        assert "manifest.json" in archive.getnames()


def has_no_time(tried: Tried) -> None:
    assert tried.config()["Created"].startswith("1970-01-01T00:00:00")


def is_first_stage(tried: Tried) -> None:
    assert tried.config()["Config"]["Labels"] == {"stage": "first"}


def is_pruned(tried: Tried) -> None:
    assert "Total reclaimed space:" in tried.result.text


def asked_mirror(tried: Tried) -> None:
    assert tried.remote.asked("GET", "/library/base/manifests/")


def asked_registry(tried: Tried) -> None:
    assert tried.remote.asked("GET", "/base/manifests/")


def read_certificate(tried: Tried) -> None:
    assert "has no key beside it" in tried.result.err


CHECKS: dict[str, Callable[[Tried], None]] = {
    "build-arg": took_argument,
    "cache-dir": has_store,
    "cache-repo": gave_cache,
    "cache-ttl": is_pruned,
    "compressed-caching": gave_plain_cache,
    "compression": has_zstd,
    "compression-level": has_zstd,
    "context": is_built,
    "context-sub-path": is_built,
    "custom-platform": is_for_arm,
    "customPlatform": is_for_arm,
    "destination": is_pushed,
    "digest-file": wrote_digest,
    "dockerfile": is_built,
    "git": is_built,
    "image-name-tag-with-digest-file": wrote_names,
    "image-name-with-digest-file": wrote_names,
    "insecure": is_pushed,
    "insecure-pull": asked_registry,
    "insecure-registry": asked_registry,
    "kaniko-dir": has_store,
    "label": has_label,
    "log-format": told_plainly,
    "log-timestamp": told_plainly,
    "oci-layout-path": wrote_layout,
    "registry-certificate": asked_registry,
    "registry-client-cert": read_certificate,
    "registry-map": asked_mirror,
    "registry-mirror": asked_mirror,
    "reproducible": has_no_time,
    "skip-default-registry-fallback": asked_mirror,
    "skip-tls-verify": is_pushed,
    "skip-tls-verify-pull": asked_registry,
    "skip-tls-verify-registry": asked_registry,
    "tar-path": wrote_archive,
    "tarPath": wrote_archive,
    "target": is_first_stage,
    "verbosity": told_nothing,
}

OVER_TLS = ("insecure", "skip-tls-verify", "registry-certificate", "registry-client-cert")
"""What these say makes the difference: the certificate is trusted by nobody else."""

FROM_THERE = ("insecure-pull", "insecure-registry", "skip-tls-verify-pull", "skip-tls-verify-registry")


def test_every_flag_of_the_executor_is_in_the_table() -> None:
    assert sorted(ROWS) == sorted(FLAGS)
    assert {flag for flag, text in ROWS.items() if text} == set(CHECKS)


@pytest.fixture(scope="module")
def plain() -> Iterator[Registry]:
    with registry.fake() as found:
        yield found


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Path]]:
    place = tmp_path_factory.mktemp("tls")
    with registry.fake(web.certificate(place)) as found:
        yield found, place / "server.pem"


def unique() -> list[str]:
    """Return one flag for each replacement and way to look at it."""
    return [*{(text, CHECKS[flag]): flag for flag, text in reversed(ROWS.items()) if text}.values()]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Here:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return make(capsys, monkeypatch, tmp_path)


def settings_of(flag: str, remote: Registry) -> str:
    """Return the settings that the guide shows, for this registry."""
    snippet = re.search(r"```toml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert snippet is not None
    text = snippet[1].replace("REGISTRY", remote.address)
    if flag != "skip-default-registry-fallback":
        return text
    alone = text.partition("\n[[registry.mirror]]")[0]
    return alone.replace('location = "docker.io"', f'location = "{remote.address}"')


def filled(text: str, remote: Registry, place: Path) -> str:
    text = text.replace("REGISTRY", remote.address).replace("FILE", str(place / "file"))
    return text.replace("DIR", str(place / "dir"))


@pytest.mark.userns
@pytest.mark.parametrize("flag", sorted(unique()))
def test_the_replacement_does_it(
    here: Here,
    plain: Registry,
    secure: tuple[Registry, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flag: str,
) -> None:
    remote = secure[0] if flag.startswith(OVER_TLS) else plain
    remote.contents.documents.clear()
    del remote.web.asked[:]
    for name in ("base", "library/base"):
        remote.contents.image(name, "latest", [(LAYER, bytes(1024), digest(bytes(1024)))])
    context, file = tmp_path / "context", tmp_path / "file"
    for directory in (context, tmp_path / "dir"):
        directory.mkdir()
    (context / "f").write_text("f")
    (file if flag == "dockerfile" else context / "Dockerfile").write_text(DOCKERFILE)
    words: list[str] = []
    for word in shlex.split(filled(ROWS[flag].replace("CONTEXT", str(context)), remote, tmp_path)):
        name, equals, value = word.partition("=")
        if equals and name.isupper():
            monkeypatch.setenv(name, value)
        elif word.startswith("~/"):
            to = tmp_path / "home" / word.removeprefix("~/")
            to.parent.mkdir(parents=True)
            to.write_bytes(secure[1].read_bytes())
        else:
            words.append(word)
    if words[:1] == ["pybuild"]:
        CHECKS[flag](Tried(here, remote, tmp_path, here(*words[1:])))
        return
    if CHECKS[flag] is asked_mirror:
        file.write_text(settings_of(flag, remote))
        words.append("--build-arg=BASE=base")
    elif flag.startswith((*FROM_THERE, "registry-")):
        words.append(f"--build-arg=BASE={remote.name('base')}")
    if CHECKS[flag] in (gave_cache, gave_plain_cache, has_zstd):
        words.append(f"--tag={remote.name('app:1')}")
    if not {"--quiet", "--progress=plain"} & set(words):
        words.append("--progress=json")
    status = 1 if CHECKS[flag] is read_certificate else 0
    if str(context) not in words:
        words.append(str(context))
    CHECKS[flag](Tried(here, remote, tmp_path, here("build", *words, status=status)))
