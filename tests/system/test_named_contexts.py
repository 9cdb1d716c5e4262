"""--build-context: names that mean other files or images than the Dockerfile says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import repositories
from support import web as servers
from support.images import Image
from support.program import Pybuild, Result
from support.repositories import Repository
from support.web import Answer, Web

pytestmark = pytest.mark.userns


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "sub").mkdir(parents=True)
    (directory / "file").write_text("named")
    (directory / "sub" / "inner").write_text("inner")
    (directory / "left").write_text("out")
    (directory / ".dockerignore").write_text("left\n.dockerignore\n")
    return directory


def build(pybuild: Pybuild, context: Path, text: str, *contexts: str) -> Image:
    return pybuild.image(context, *(f"--build-context={item}" for item in contexts), dockerfile=text)


def files(image: Image) -> dict[str, str]:
    return {path: node.text for path, node in image.tree().items() if node.type == "file"}


def failure(result: Result) -> dict[str, object]:
    found: dict[str, object] = result.events[-1]["failure"]
    return found


def test_a_directory_for_copy_from_and_mounts(inline_base: Pybuild, context: Path, source: Path) -> None:
    text = """\
FROM base
COPY --from=src . /all/
COPY --from=src --chown=3:4 file /one
RUN --mount=from=src,target=/m cat /m/file /m/sub/inner > /seen && ls -a /m > /names
RUN --mount=type=bind,from=src,source=sub,target=/m,rw touch /m/new && cat /m/inner > /again
"""
    image = build(inline_base, context, text, f"src={source}")
    tree = image.tree()
    assert {path: tree[path].text for path in ("all/file", "all/sub/inner", "one", "seen", "again")} == {
        "all/file": "named",
        "all/sub/inner": "inner",
        "one": "named",
        "seen": "namedinner",
        "again": "inner",
    }
    assert "all/left" not in tree
    assert tree["names"].text.split() == [".", "..", "file", "sub"]
    assert (tree["all/file"].uid, tree["one"].uid) == (0, 3)
    assert not (source / "sub" / "new").exists()
    again = inline_base.build(context, f"--build-context=src={source}", dockerfile=text)
    assert again.redone() == []
    (source / "file").write_text("changed")
    redone = inline_base.build(context, f"--build-context=src={source}", dockerfile=text).redone()
    assert len(redone) == 4
    (source / "left").write_text("changed")
    assert inline_base.build(context, f"--build-context=src={source}", dockerfile=text).redone() == []


def test_a_directory_as_base(inline: Pybuild, context: Path, source: Path) -> None:
    text = "FROM some/image:1.2\nWORKDIR /w\nCOPY --from=some/image:1.2 file ./\n"
    image = build(inline, context, text, f"some/image:1.2={source}")
    assert files(image) == {"file": "named", "sub/inner": "inner", "w/file": "named"}
    assert [entry.get("created_by", "") for entry in image.history if not entry.get("empty_layer")] == [
        "FROM some/image:1.2",
        "WORKDIR /w",
        "COPY file ./ # buildkit",
    ]
    assert len(image.diff_ids) == 3
    assert image.run["Env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


def test_stages_and_images_of_the_name_are_hidden(inline: Pybuild, context: Path, source: Path) -> None:
    text = """\
FROM absent AS src
RUN false
FROM scratch
COPY --from=SRC file /
COPY --from=docker.io/library/tool:latest sub /
"""
    image = build(inline, context, text, f"src={source}", f"tool={source}")
    assert files(image) == {"file": "named", "inner": "inner"}
    # Also where the stage itself is asked for, or counted
    args = (f"--build-context=src={source}", "--target=src")
    assert files(inline.image(context, *args, dockerfile=text)) == {"file": "named", "sub/inner": "inner"}
    counted = text.replace("--from=SRC", "--from=0").replace("COPY --from=docker.io/library/tool:latest sub /\n", "")
    assert files(build(inline, context, counted, f"src={source}")) == {"file": "named"}


@pytest.mark.slow
def test_images_of_the_store_and_of_layouts(base: Pybuild, context: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    text = "FROM base\nRUN echo other > /other\n"
    base.build(context, "-t", "here.example/x:3", "-o", f"type=oci,dest={layout},tar=false", dockerfile=text)
    use = "FROM elsewhere\nCOPY --from=tool /other /copied\nRUN --mount=from=tool,target=/m cat /m/other > /mounted\n"
    tree = build(base, context, use, "elsewhere=docker-image://base", f"tool=oci-layout://{layout}:3").tree()
    assert (tree["copied"].text, tree["mounted"].text) == ("other\n", "other\n")
    # Of the only image neither tag nor digest need be said
    build(base, context, use, "elsewhere=docker-image://here.example/x:3", f"tool=oci-layout://{layout}")
    for value, message in (
        (f"oci-layout://{layout}:absent", "no such image"),
        (f"oci-layout://{layout}@sha256:{'0' * 64}", "no such image"),
        (f"oci-layout://{layout}@sha256:0", "digest"),
        (f"oci-layout://{tmp_path}/nothing", "no OCI layout directory"),
        ("docker-image://absent:1", "no such image in the local store"),
    ):
        args = ("--pull=never", "--build-context=elsewhere=docker-image://base", f"--build-context=tool={value}")
        found = failure(base.build(context, *args, dockerfile=use, status=1))
        assert message in str(found["message"])
        assert found["line"] == 2


def test_another_stage(inline: Pybuild, context: Path) -> None:
    text = """\
FROM scratch AS made
COPY <<END /made
1
END
FROM absent AS user
COPY --from=tool /made /copied
"""
    image = build(inline, context, text, "absent=target:made", "tool=target:MADE")
    assert files(image) == {"made": "1\n", "copied": "1\n"}
    result = inline.build(context, "--build-context=absent=target:user", dockerfile=text, status=1)
    assert "means no stage before" in str(failure(result)["message"])


@pytest.fixture
def web() -> Iterator[Web]:
    with servers.serve() as web:
        yield web


@pytest.mark.git
def test_addresses(daemon: Pybuild, context: Path, web: Web, tmp_path: Path) -> None:
    made = Repository(tmp_path / "served" / "a.git")
    made.commit(file="from git", sub__file="from below", **{".dockerignore": "*\n"})
    web.answers["/lone.txt"] = Answer(b"lone")
    text = "FROM repo\nCOPY --from=repo . /repo/\nCOPY --from=sub . /below/\nCOPY --from=lone . /lone/\n"
    with repositories.serve(made.path.parent) as git:
        named = (f"repo={git.url('/a.git')}", f"sub={git.url('/a.git#main:sub')}", f"lone={web.url('/lone.txt')}")
        image = build(daemon, context, text, *named)
    assert files(image) == {
        ".dockerignore": "*\n",
        "file": "from git",
        "sub/file": "from below",
        "repo/.dockerignore": "*\n",
        "repo/file": "from git",
        "repo/sub/file": "from below",
        "below/file": "from below",
        "lone/lone.txt": "lone",
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("name", "wants NAME=VALUE"),
        ("=x", "wants NAME=VALUE"),
        ("name=absent", "no directory"),
        ("name=file:///etc", "no directory"),
        ("name=ext::sh -c touch% canary", "no directory"),
    ],
)
def test_what_cannot_be_meant(inline: Pybuild, context: Path, spec: str, message: str) -> None:
    result = inline("build", "--build-context", spec, context, status=2, cwd=context)
    assert message in result.err


def test_links_in_a_named_context_stay_inside(inline: Pybuild, context: Path, source: Path) -> None:
    (source.parent / "secret").write_text("secret")
    (source / "link").symlink_to("../secret")
    text = "FROM scratch\nCOPY --from=src link /\n"
    result = inline.build(context, f"--build-context=src={source}", dockerfile=text, status=1)
    assert failure(result)["line"] == 2
