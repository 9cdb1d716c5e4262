"""Which paths matter to a build, and that the kernel's word of them is heard."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.api.events import Read
from pybuild.context.errors import ContextError
from pybuild.context.footprint import Footprint
from pybuild.context.ignore import IgnoreMatcher
from pybuild.context.watch import Watched, Watcher
from pybuild.engine.reading import found
from pybuild.tree.copy import Selected


@pytest.mark.parametrize(
    ("read", "used", "unused"),
    [
        (Read("app.py"), [b"app.py"], [b"app", b"app.pyc", b"other/app.py"]),
        (Read("./src/"), [b"src", b"src/a", b"src/b/c"], [b"srcs", b"a", b"other/src"]),
        (Read("/src/a.txt"), [b"src/a.txt", b"src"], [b"src/b.txt"]),
        (Read("a/../b"), [b"b"], [b"a", b"c"]),
        (Read("*.go"), [b"a.go", b"d.go/inside"], [b"a.c", b"d/a.go"]),
        (Read("src/*/x"), [b"src/a/x", b"src/a/x/y", b"src/b"], [b"src/a/y", b"x"]),
        (Read("."), [b"a", b"b/c"], []),
        (Read("src", excludes=("**/*.log", "!keep.log")), [b"src/a", b"src/keep.log"], [b"src/a.log", b"src/b/c.log"]),
        (Read("src/./lib/**/*.c", parents=True), [b"src/lib/a.c", b"src/lib/x/y.c"], [b"src/a.c", b"src/lib/a.h"]),
        (Read("lib/*.c", parents=True), [b"lib/a.c"], [b"lib/a.h", b"a.c"]),
        (Read(r"odd\*name"), [rb"odd\*name"], [b"odd*name", b"oddXname"]),
        (Read(r"d?/odd\*name"), [b"do/odd*name"], [rb"do/odd\*name", b"do/oddXname"]),
        (Read(r"odd[\*]name"), [b"odd*name"], [rb"odd\*name", b"oddXname"]),
        (Read("[", excludes=()), [], [b"["]),
    ],
)
def test_footprint(read: Read, used: list[bytes], unused: list[bytes]) -> None:
    footprint = Footprint([read])
    assert [path for path in used if not footprint.uses(path, directory=False)] == []
    assert [path for path in unused if footprint.uses(path, directory=False)] == []


@given(st.lists(st.text("ab*?[]\\\\-^ ", min_size=1, max_size=4).map(str.encode), min_size=1, max_size=3))
def test_where_a_link_has_led_counts_by_its_very_name(names: list[bytes]) -> None:
    path = b"/".join(names)
    footprint = Footprint(found([Selected(b"", path, ())], "").reads)
    assert footprint.uses(path, directory=False)
    assert not footprint.uses(path + b"x", directory=False)


def test_footprint_of_nothing_and_of_everything() -> None:
    assert not Footprint([]).uses(b"a", directory=False)
    assert Footprint(None).uses(b"a/b", directory=False)


def test_directories_on_the_way_are_reached() -> None:
    footprint = Footprint([Read("a/b/*.txt"), Read("x/./**/y", parents=True)])
    assert all(footprint.uses(path, directory=True) for path in (b"", b"a", b"a/b", b"x", b"x/deep/er"))
    assert not any(footprint.uses(path, directory=True) for path in (b"b", b"a/c", b"y"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    for name in ("src/deep", "node_modules/m", "docs"):
        (path / name).mkdir(parents=True)
    (path / "src/a.py").write_text("1")
    (path / "docs/d.md").write_text("1")
    time.sleep(0.05)
    return path


@pytest.fixture
def watcher(root: Path, tmp_path: Path) -> Iterator[Watcher]:
    footprint = Footprint([Read("src"), Read("*.toml")])
    files = [root / "Dockerfile", tmp_path / "elsewhere.Dockerfile"]
    contexts = [Watched(root, IgnoreMatcher(["node_modules", "**/*.pyc"]), footprint)]
    with Watcher(contexts, files, [root / "src/out.tar"]) as made:
        yield made


def quiet(watcher: Watcher) -> bool:
    """Is nothing told? Asked without waiting, after the kernel had its time."""
    time.sleep(0.05)
    return watcher._take() == set()


def test_only_what_matters_is_watched(watcher: Watcher) -> None:
    # The context, src, src/deep, and the directory of the other Dockerfile
    assert watcher.directories == 4


def test_changes_are_told(watcher: Watcher, root: Path, tmp_path: Path) -> None:
    (root / "src/a.py").write_text("2")
    assert watcher.wait() == ["src/a.py"]
    (root / "src/deep/new.py").write_text("1")
    (root / "src/a.py").chmod(0o755)
    assert watcher.wait() == ["src/a.py", "src/deep/new.py"]
    (root / "x.toml").write_text("")
    assert watcher.wait() == ["x.toml"]
    (root / "x.toml").unlink()
    assert watcher.wait() == ["x.toml"]
    (root / "src/a.py").rename(root / "src/b.py")
    assert watcher.wait() == ["src/a.py", "src/b.py"]
    (root / "Dockerfile").write_text("FROM scratch")
    assert watcher.wait() == ["Dockerfile"]
    (tmp_path / "elsewhere.Dockerfile").write_text("FROM scratch")
    assert watcher.wait() == [str(tmp_path / "elsewhere.Dockerfile")]


def test_what_does_not_matter_is_not_told(watcher: Watcher, root: Path, tmp_path: Path) -> None:
    for path in (
        *(root / "docs/d.md", root / "node_modules/m/x.js", root / "src/a.pyc", root / "other", root / "src/out.tar"),
        tmp_path / "something",
    ):
        path.write_text("2")
    assert quiet(watcher)


def test_new_and_moved_directories_are_watched(watcher: Watcher, root: Path) -> None:
    (root / "src/new/er").mkdir(parents=True)
    assert set(watcher.wait()) >= {"src/new"}
    (root / "src/new/er/f").write_text("1")
    assert "src/new/er/f" in watcher.wait()
    (root / "src/deep").rename(root / "src/shallow")
    assert watcher.wait() == ["src/deep", "src/shallow"]
    (root / "src/shallow/f").write_text("1")
    assert watcher.wait() == ["src/shallow/f"]
    (root / "src/shallow").rename(root / "docs/shallow")
    assert watcher.wait() == ["src/shallow"]
    (root / "docs/shallow/f").write_text("2")
    assert quiet(watcher)
    (root / "src/back").mkdir()
    assert watcher.wait() == ["src/back"]


def test_many_changes_are_told_together(watcher: Watcher, root: Path) -> None:
    def save() -> None:
        for number in range(20):
            (root / f"src/f{number}").write_text("1")
            time.sleep(0.005)

    thread = threading.Thread(target=save)
    thread.start()
    told = watcher.wait()
    thread.join()
    assert len(told) == 20


def test_what_changed_before_it_was_watched_is_found(watcher: Watcher, root: Path) -> None:
    now = time.time() + 0.03
    time.sleep(0.06)
    assert watcher.changed_since(now) == []
    (root / "docs/d.md").write_text("2")
    (root / "src/out.tar").write_text("")
    assert watcher.changed_since(now) in ([], ["src"])
    (root / "src/a.py").write_text("2")
    assert "src/a.py" in watcher.changed_since(now)
    later = time.time() + 0.03
    time.sleep(0.06)
    (root / "src/deep/gone").touch()
    (root / "src/deep/gone").unlink()
    assert watcher.changed_since(later) == ["src/deep"]


def test_a_context_that_goes_away_is_an_error(watcher: Watcher, root: Path) -> None:
    root.rename(root.with_name("gone"))
    with pytest.raises(ContextError, match="gone"):
        watcher.wait()


def test_contexts_may_lie_in_one_another(root: Path) -> None:
    inner = Watched(root / "src", IgnoreMatcher(["deep"]), Footprint([Read("*.py"), Read("deep")]))
    outer = Watched(root, IgnoreMatcher(), Footprint([Read("src/deep")]))
    with Watcher([outer, inner], [], []) as watcher:
        assert watcher.directories == 3
        (root / "src/a.py").write_text("2")
        assert watcher.wait() == ["src/a.py"]
        (root / "src/b.txt").write_text("2")
        assert quiet(watcher)
        (root / "src/deep/x").write_text("2")
        assert watcher.wait() == ["src/deep/x"]
        (root / "src/deep").rename(root / "src/deep.py")
        assert watcher.wait() == ["src/deep", "src/deep.py", "src/deep.py/x"]
        (root / "src/deep.py/x").write_text("3")
        assert watcher.wait() == ["src/deep.py/x"]


def test_a_context_that_went_away_before_is_an_error(root: Path, tmp_path: Path) -> None:
    gone = Watched(tmp_path / "gone", IgnoreMatcher(), Footprint(None))
    with pytest.raises(ContextError, match=f"gone: {tmp_path}/gone"):
        Watcher([Watched(root, IgnoreMatcher(), Footprint(None)), gone], [], [])


def test_an_overflow_counts_as_a_change(watcher: Watcher, root: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 20000:
        pytest.skip("the kernel's queue is very long here")
    path = root / "src/a.py"
    with path.open("w") as file:
        for number in range(limit + 100):
            os.ftruncate(file.fileno(), number % 2)
            if number % 2:
                os.fchmod(file.fileno(), 0o600 + number % 8)
    assert watcher.wait()
