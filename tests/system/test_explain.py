"""Why steps were not cached: in plain output, and by `pybuild explain`, with what really changed."""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import program, registry
from support.program import Pybuild

pytestmark = pytest.mark.userns

TEXT = """FROM base AS tools
ARG V=1
ENV MODE=fast
COPY src /src
RUN echo $V > /out
FROM scratch
COPY --from=tools /out /out
"""


@pytest.fixture(scope="module")
def shared(_adopted: None) -> Iterator[Pybuild]:
    """A daemon and a store for all tests that do not mind what the others built."""
    with program.world("daemon") as pybuild:
        pybuild.add_base()
        yield pybuild


@pytest.fixture
def project(context: Path) -> Path:
    (context / "Dockerfile").write_text(TEXT)
    (context / "src").mkdir()
    for name in "ab":
        (context / "src" / name).write_text(name)
    return context


def explained(pybuild: Pybuild, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pybuild("explain", "--json", *args).text)
    return found


def steps(pybuild: Pybuild, *args: str) -> dict[str, dict[str, Any]]:
    """Return the steps that were not cached by the first word and the last one of their instruction."""
    found = explained(pybuild, *args)["steps"]
    return {step["text"].split()[0] + " " + step["text"].split()[-1]: step for step in found if not step["cached"]}


def changes(step: dict[str, Any]) -> list[tuple[str, str]]:
    return [(change["part"], change["name"]) for change in step["changes"]]


def digest(content: str) -> str:
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def test_a_miss_is_explained_by_what_changed(pybuild: Pybuild, project: Path) -> None:
    pybuild.add_base()
    first = pybuild("build", "--progress=plain", project).err
    assert first.count(" not cached: no earlier result of this step\n") == 3
    again = pybuild("build", "--progress=plain", project).err
    assert "not cached" not in again
    assert again.count(" CACHED\n") == 5
    assert pybuild("explain").text.endswith("\n3 of 3 steps were cached\n")
    (project / "src" / "a").write_text("longer")
    (project / "src" / "b").unlink()
    (project / "src" / "c").write_text("")
    told = pybuild("build", "--progress=plain", project).err
    assert "not cached: file src/a and 2 more changed\n" in told
    text = pybuild("explain").text
    assert "\n1 of 3 steps were cached\n" in text
    assert "[tools 2/3] COPY src /src (line 4)\n  not cached: file src/a and 2 more changed\n" in text
    assert f"    src/a  {digest('a')} (1B) -> {digest('longer')} (6B)\n" in text
    assert f"    src/b  gone, was {digest('b')} (1B)\n" in text
    assert f"    src/c  new: {digest('')} (0B)\n" in text
    assert "  not cached: the layer of `COPY src /src` changed\n" in text
    missed = steps(pybuild)
    assert [*missed] == ["COPY /src", "RUN /out"]
    assert missed["COPY /src"]["changes"][0]["new_size"] == 6
    assert changes(missed["RUN /out"]) == [("layer", "COPY src /src")]


def test_arguments_variables_and_what_follows(shared: Pybuild, project: Path) -> None:
    shared.build(project)
    shared.build(project, "--build-arg", "V=2")
    told = steps(shared)
    assert told["RUN /out"]["changes"] == [{"part": "arg", "name": "V", "old": "1", "new": "2"}]
    assert told["RUN /out"]["reason"] == "ARG V changed"
    assert changes(told["COPY /out"]) == [("file", "out")]
    (project / "Dockerfile").write_text(TEXT.replace("fast", "slow"))
    shared.build(project)
    # The nearest is the build with the same V, though another came after it
    assert steps(shared)["RUN /out"]["changes"] == [
        {"part": "env", "name": "MODE", "old": "fast", "new": "slow"},
    ]


def test_the_base_image_is_told(shared: Pybuild, project: Path) -> None:
    # Nothing that another test built, from what is the same under another name
    (project / "src" / "own").write_text("own")
    shared.build(project, "-t", "changing", dockerfile="FROM base\n")
    (project / "Dockerfile").write_text(TEXT.replace("FROM base", "FROM changing"))
    shared.build(project)
    shared.build(project, "-t", "changing", dockerfile="FROM base\nCOPY src/a /new\n")
    shared.build(project)
    told = steps(shared)
    assert told["COPY /src"]["reason"] == "base image changing changed"
    assert changes(told["RUN /out"]) == [("base", "changing")]


def test_edited_and_inserted_instructions(shared: Pybuild, project: Path) -> None:
    shared.build(project)
    edited = TEXT.replace("RUN echo $V", "RUN echo -n $V").replace("COPY src", "WORKDIR /w\nCOPY src")
    (project / "Dockerfile").write_text(edited)
    shared.build(project)
    told = steps(shared)
    assert told["WORKDIR /w"]["reason"] == "no earlier result of this step"
    assert told["COPY /src"]["reason"] == "the layer of `WORKDIR /w` is new"
    (change, *_) = told["RUN /out"]["changes"]
    assert change == {"part": "instruction", "name": "", "old": "RUN echo $V > /out", "new": "RUN echo -n $V > /out"}


def test_mounts_and_settings(shared: Pybuild, project: Path) -> None:
    text = "FROM base\nRUN --mount=type=bind,source=src,target=/m cat /m/*\n"
    shared.build(project, dockerfile=text)
    (project / "src" / "a").write_text("other")
    shared.build(project, "--shm-size=1m", dockerfile=text)
    (told,) = steps(shared).values()
    assert changes(told) == [("file", "src/a"), ("mount", "type=bind,target=/m"), ("option", "--shm-size")]
    assert told["reason"] == "file src/a changed; mount, settings too"


def test_a_cache_from_elsewhere_explains_too(shared: Pybuild, inline: Pybuild, project: Path, tmp_path: Path) -> None:
    text = "FROM scratch\nCOPY src /src\n"
    (project / "Dockerfile").write_text(text)
    shared.build(project, f"--cache-to=type=local,dest={tmp_path / 'cache'}")
    (project / "src" / "a").write_text("here")
    again = inline.build(project, f"--cache-from=type=local,src={tmp_path / 'cache'}")
    assert again.redone() == ["COPY src /src"]
    assert changes(steps(inline)["COPY /src"]) == [("file", "src/a")]
    # What is no account hurts nobody
    (index,) = [
        path for path in (tmp_path / "cache" / "blobs" / "sha256").iterdir() if b'"account"' in path.read_bytes()
    ]
    assert b"src/a" not in index.read_bytes()


CARRIED = """FROM scratch
ARG V=1
COPY src /src
COPY --from=base /bin/busybox /bin/sh
RUN --mount=type=bind,target=/m echo $V
WORKDIR /w
"""


def records(image: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what an image's config carries of its results."""
    found: list[dict[str, Any]] = json.loads(base64.b64decode(image["moby.buildkit.cache.v0"]))
    return found


def test_a_cache_in_a_registry_explains_too(shared: Pybuild, inline: Pybuild, project: Path) -> None:
    (project / "Dockerfile").write_text("FROM base\nRUN --mount=target=/m --device=v.com/none cat /m/src/a\n")
    inline.add_base()
    with registry.fake() as remote:
        where = f"type=registry,ref={remote.name('cache:1')}"
        shared.build(project, f"--cache-to={where}")
        (project / "src" / "a").write_text("here")
        inline.build(project, f"--cache-from={where}", "--allow=device=v.com/other,alias=v.com/none")
        told = changes(steps(inline)["RUN /m/src/a"])
    assert told == [("file", "src/a"), ("mount", "type=bind,target=/m"), ("option", "--device")]


@pytest.mark.parametrize("way", ["archive", "registry"])
def test_an_image_explains_what_is_built_from_it(
    shared: Pybuild, inline: Pybuild, project: Path, tmp_path: Path, way: str
) -> None:
    (project / "Dockerfile").write_text(CARRIED)
    (project / "src" / "way").write_text(way)
    inline.add_base()
    with registry.fake() as remote:
        name = remote.name("app:1") if way == "registry" else "app"
        out = "--push" if way == "registry" else f"-otype=docker,dest={tmp_path / 'app.tar'}"
        shared.build(project, "--cache-to=inline", "-t", name, out)
        if way == "archive":
            inline("load", "-i", tmp_path / "app.tar")
        (project / "src" / "a").write_text("here")
        (project / "src" / "new").write_text("new")
        inline.build(project, "--build-arg=V=2", "--cache-from", name)
    told = steps(inline)
    assert [*told] == ["COPY /src", "COPY /bin/sh", "RUN $V", "WORKDIR /w"]
    assert told["COPY /src"]["reason"] == "file src/a and 1 more changed"
    (changed, _) = told["COPY /src"]["changes"]
    assert changed["old"].startswith(digest("a"))
    assert changed["new"].startswith(digest("here"))
    assert changes(told["COPY /bin/sh"]) == [("layer", "COPY src /src")]
    assert changes(told["RUN $V"]) == [("arg", "V"), ("mount", "type=bind,target=/m"), ("layer", "COPY src /src")]
    assert changes(told["WORKDIR /w"])[0] == ("layer", "COPY src /src")


def test_a_carried_account_is_the_same_wherever_it_is_made(
    shared: Pybuild, inline: Pybuild, project: Path, tmp_path: Path
) -> None:
    """Whether its step was cached or not, and whatever another one with the same key was called."""
    text = "FROM scratch\nCOPY src /src\nCOPY . /all\n"
    dated = ("--build-arg=SOURCE_DATE_EPOCH=7", "--cache-to=inline")
    shared.build(project, dockerfile="FROM scratch AS other\nADD   src   /src\n")
    found = [world.image(project, *dated, dockerfile=text) for world in (shared, shared, inline)]
    assert len({image.config_digest for image in found}) == 1
    first, second = records(found[0].config)
    assert first["pybuild"]["told"]["account"]["below"] == [["scratch", ""]]
    assert "below" not in second["pybuild"]["told"]["account"]
    assert [row[0] for row in first["pybuild"]["told"]["files"]] == ["src", "src/a", "src/b"]
    # Nobody who does not ask for it has any of that
    assert "moby.buildkit.cache.v0" not in inline.image(project, dated[0], dockerfile=text).config


def test_why_there_is_nothing_to_compare(shared: Pybuild, project: Path) -> None:
    shared.build(project)
    shared.build(project, "--no-cache-filter=tools")
    assert {step["reason"] for step in steps(shared).values()} == {"the cache is off for this stage"}
    # Neither the place of the context nor its name decides: an instruction is known again anywhere
    elsewhere = project.with_name("elsewhere")
    shutil.copytree(project, elsewhere)
    (elsewhere / "src" / "a").write_text("here")
    shared.build(elsewhere)
    assert changes(steps(shared)["COPY /src"]) == [("file", "src/a")]


def test_a_failed_step_is_explained_too(shared: Pybuild, project: Path) -> None:
    shared.build(project)
    (project / "Dockerfile").write_text(TEXT.replace("echo $V", "false"))
    result = shared("build", "--progress=plain", project, status=1)
    assert " not cached: the instruction changed\n" in result.err
    build = explained(shared)
    assert (build["state"], build["cached"], build["missed"], build["total"]) == ("failed", 1, 1, 3)
    (step,) = [step for step in build["steps"] if step["state"] == "failed"]
    assert step["reason"] == "the instruction changed"
    text = shared("explain").text
    assert "failed: RUN ended with exit code 1" in text
    assert "\n1 of 3 steps were cached, 1 not come to\n" in text
    assert "  failed; not cached: the instruction changed\n" in text


def test_a_verification_is_no_build_to_explain(shared: Pybuild, project: Path) -> None:
    text = "FROM scratch\nCOPY src /verified\n"
    (project / "Dockerfile").write_text(text)
    shared.build(project, "-t", "verified")
    before = shared("explain", "--list", "--json").text
    shared("verify", "verified")
    assert shared("explain", "--list", "--json").text == before


def test_names_that_are_no_text_are_no_trouble(shared: Pybuild, tmp_path: Path) -> None:
    context = tmp_path / os.fsdecode(b"odd \xff")
    context.mkdir()
    (context / os.fsdecode(b"f\xfe")).write_text("x")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /odd\n")
    shared("build", "--inline", context)
    (context / os.fsdecode(b"f\xfe")).write_text("longer")
    shared("build", "--inline", context)
    assert " changed\n" in shared("explain").text
    (context / "Dockerfile").write_text("FROM scratch\nCOPY nothing /odd\n")
    shared("build", "--inline", context, status=1)
    assert "odd \\" in shared("explain").text


def test_builds_are_listed_and_chosen(pybuild: Pybuild, project: Path) -> None:
    assert "there is no build to explain" in pybuild("explain", status=1).err
    assert pybuild("explain", "--list", "--json").text == ""
    pybuild.build(project, "-t", "x:1", dockerfile="FROM scratch\nCOPY src /src\n")
    pybuild.build(project, dockerfile="FROM scratch\nCOPY src /src\n")
    rows = [json.loads(line) for line in pybuild("explain", "--list", "--json").text.splitlines()]
    assert [(row["missed"], row["total"], row["tags"]) for row in rows] == [(0, 1, []), (1, 1, ["x:1"])]
    assert explained(pybuild, "--build", rows[1]["id"])["tags"] == ["x:1"]
    assert explained(pybuild, "--build", rows[1]["id"][:6])["id"] == rows[1]["id"]
    heading, *lines = pybuild("explain", "--list").text.splitlines()
    assert heading.split()[:2] == ["BUILD", "CREATED"]
    assert [line.split()[0] for line in lines] == [row["id"] for row in rows]
    assert "no such build: xyz" in pybuild("explain", "--build=xyz", status=1).err
    pybuild("explain", "--list", "--build=x", status=2)
    # What a prune removes cannot be compared with, and says so
    pybuild("prune", "--all", "--force")
    assert pybuild("explain", "--list", "--json").text == ""


def test_a_cached_build_writes_nothing_into_the_index(inline: Pybuild, project: Path) -> None:
    text = "FROM scratch\nCOPY src /src\n"
    inline.build(project, dockerfile=text)
    index = inline.store / "index.sqlite"
    before = index.stat()
    inline.build(project, dockerfile=text)
    after = index.stat()
    assert explained(inline)["missed"] == 0
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
