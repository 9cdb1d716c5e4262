"""What both doors must do alike, and what is special about the socket."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.api.events import Built, Failed, Moved, Pulled, Pushed, ShellEnded, ShellOpened, StepLog, Transfer
from pybuild.api.request import BuildRequest, PullRequest, PushRequest, ShellRequest
from pybuild.client import Backend, connect, start, wants_inline
from pybuild.client.inline import Inline
from pybuild.client.remote import Remote
from pybuild.client.start import place, wait_for_start
from pybuild.errors import ConflictError, ExitCode, NotFoundError, PybuildError, UsageError
from support import fake_engine
from support.fake_world import World, wait_for


@pytest.fixture(params=["inline", "remote"])
def backend(request: pytest.FixtureRequest, world: World) -> Iterator[Backend]:
    if request.param == "remote":
        with world.connect() as remote:
            yield remote
    else:
        images = fake_engine.Images(world.store)
        parts = {
            "pull": fake_engine.pull,
            "push": fake_engine.push,
            "build": fake_engine.build,
            "shell": fake_engine.shell,
            "failure_of": fake_engine.failure_of,
        }
        with Inline(world.store, images=images, **parts) as inline:
            yield inline


def request_for(text: str, target: str = "") -> BuildRequest:
    return BuildRequest(context="/", dockerfile_text=text, tags=("a:1", "b:2"), target=target)


def test_a_build_ends_with_built(backend: Backend) -> None:
    events = list(backend.build(request_for("FROM scratch")))
    assert isinstance(events[-1], Built)
    assert events[-1].tags == ("a:1", "b:2")
    assert [type(event).__name__ for event in events[:2]] == ["Planned", "StepStarted"]


def test_a_failed_build_ends_with_the_failure_and_its_step(backend: Backend) -> None:
    last = list(backend.build(request_for("fail")))[-1]
    assert isinstance(last, Failed)
    assert (last.step, last.failure.kind, last.failure.status) == (1, "RunFailedError", 7)
    assert last.failure.log == ("first", "last")


def test_a_bug_in_a_build_is_a_failure_with_its_traceback(backend: Backend) -> None:
    last = list(backend.build(request_for("bug")))[-1]
    assert isinstance(last, Failed)
    assert last.failure.exit_code == ExitCode.BUG
    assert last.failure.traceback


def test_a_context_is_streamed_whole(backend: Backend) -> None:
    size = (9 << 20) + 17
    events = list(backend.build(BuildRequest(), io.BytesIO(b"x" * size)))
    assert StepLog(1, "stdout", f"context of {size} bytes\n") in events


def test_a_lot_of_output_comes_whole_and_in_order(backend: Backend) -> None:
    logs = [event.text for event in backend.build(request_for("noisy")) if isinstance(event, StepLog)]
    assert logs == [f"line {number}\n" for number in range(50_000)]


def test_closing_the_events_cancels_the_build(backend: Backend, world: World) -> None:
    events = backend.build(request_for("slow"))
    for event in events:
        if isinstance(event, StepLog):
            break
    events.close()
    world.wait(world.store / "seen" / "cancelled")


def test_a_shell_is_attached_to_and_decided_upon(backend: Backend) -> None:
    events = backend.shell(ShellRequest("app", ("a", "b"), env={"C": "d"}, terminal=True))
    opened = next(events)
    assert isinstance(opened, ShellOpened)
    write, out, err = backend.attach(opened.token)
    with pytest.raises(NotFoundError):
        backend.attach(opened.token)
    os.write(write, b"typed ")
    with pytest.raises(UsageError):
        backend.decide(opened.token, "perhaps")
    backend.decide(opened.token, "retry")
    [last] = events
    assert isinstance(last, ShellEnded)
    assert (last.status, last.token) == (7, opened.token)
    assert (os.read(out, 100), os.read(err, 100)) == (b"a b", b"typed retry")
    assert os.read(out, 1) == os.read(err, 1) == b""
    for fd in (write, out, err):
        os.close(fd)
    with pytest.raises(NotFoundError):
        backend.decide(opened.token, "retry")


def test_a_shell_in_nothing_fails(backend: Backend) -> None:
    [last] = backend.shell(ShellRequest("other"))
    assert isinstance(last, Failed)
    assert (last.failure.kind, last.failure.exit_code) == ("NotFoundError", ExitCode.FAILED)


def test_a_shell_nobody_comes_to_ends_with_its_events(backend: Backend) -> None:
    events = backend.shell(ShellRequest("app"))
    opened = next(events)
    assert isinstance(opened, ShellOpened)
    events.close()
    if isinstance(backend, Remote):
        backend = Remote.connect()

    def is_gone() -> bool:
        try:
            backend.decide(opened.token, "retry")
        except NotFoundError:
            return True
        return False

    with backend:
        wait_for(is_gone)


def test_several_builds_follow_each_other(backend: Backend) -> None:
    for _ in range(3):
        assert isinstance(list(backend.build(request_for("x")))[-1], Built)


def test_questions_about_images_are_answered_alike(backend: Backend) -> None:
    assert backend.images(filters={"label": ["a=1"]})[0]["Labels"] == {"filters": "{'label': ['a=1']}"}
    assert backend.inspect("app")["Config"]["Env"] == ["A=1"]
    assert [row["CreatedBy"] for row in backend.history("app")][1] == "COPY a"
    backend.tag("app", "host:5000/x/y:2")
    assert "host:5000/x/y:2" in backend.images()[0]["RepoTags"]
    assert backend.remove("app") == [{"Untagged": "app"}, {"Deleted": fake_engine.ID}]
    assert backend.df()["rows"][0]["type"] == "Images"
    report = backend.prune(all=True, filters={"until": ["1h"]}, dry_run=True)
    assert report["items"][1]["reason"] == "True {'until': ['1h']} True"


def test_archives_go_out_and_come_in(backend: Backend) -> None:
    out = io.BytesIO()
    backend.save(["app", fake_engine.ID], out, format="oci", compression="zstd")
    assert out.getvalue().startswith(f"oci zstd app {fake_engine.ID}\n".encode())
    assert len(out.getvalue()) > 4 << 20
    out = io.BytesIO()
    backend.save([fake_engine.ID], out, platform="linux/arm64")
    assert out.getvalue() == f"docker none {fake_engine.ID} for linux/arm64\n".encode()
    assert backend.inspect("app", "linux/arm64")["Architecture"] == "linux/arm64"
    assert backend.load(io.BytesIO(b"x" * 300_000))[0] == {"name": "size-300000:latest"}
    assert backend.load(Path("/some/layout")) == [{"name": "dir-layout:latest"}]
    assert backend.import_(io.BytesIO(b"tar"), "n", changes=["CMD x", "ENV a=b c"], message="m&m") == fake_engine.ID
    assert "n:3-2-m&m" in backend.images()[0]["RepoTags"]
    out = io.BytesIO()
    backend.export("app", "tar", out, {"k": "v=1"})
    assert out.getvalue() == b"tar [('k', 'v=1')]"


@pytest.mark.parametrize(
    ("ask", "kind", "message"),
    [
        (lambda backend: backend.inspect("no/such:1"), NotFoundError, "No such image: no/such:1"),
        (lambda backend: backend.save(["nope"], io.BytesIO()), NotFoundError, "No such image: nope"),
        (lambda backend: backend.import_(io.BytesIO(), "n"), PybuildError, "not a tar archive"),
    ],
)
def test_errors_are_the_same_with_their_hints(
    backend: Backend, ask: object, kind: type[Exception], message: str
) -> None:
    assert callable(ask)
    with pytest.raises(kind) as caught:
        ask(backend)
    assert isinstance(caught.value, PybuildError)
    assert caught.value.message == message
    assert caught.value.hint
    assert caught.value.exit_code == ExitCode.FAILED
    # The way is still open
    assert backend.images()


def test_an_image_with_several_names_is_a_conflict(backend: Backend) -> None:
    backend.tag("app", "other")
    with pytest.raises(ConflictError):
        backend.remove(fake_engine.ID)
    assert backend.remove(fake_engine.ID, force=True)


def test_an_archive_that_breaks_off_is_an_error(world: World) -> None:
    with world.connect() as remote, pytest.raises(PybuildError, match="closed the connection"):
        remote.save(["app"], io.BytesIO(), format="broken")


def test_a_broken_input_does_not_pass_for_a_whole_one(world: World) -> None:
    class Broken(io.RawIOBase):
        def __init__(self) -> None:
            self.reads = 0

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if self.reads > 3:
                raise OSError(5, "input/output error")
            return b"x" * 1000

    with world.connect() as remote:
        try:
            last = list(remote.build(BuildRequest(), Broken()))[-1]  # type: ignore[arg-type]
        except PybuildError:
            return
        assert isinstance(last, Failed)


def test_a_client_that_goes_away_cancels_its_build_only(world: World) -> None:
    gate = world.base / "gate"
    with world.connect() as staying, world.connect() as going:
        slow = going.build(request_for("slow"))
        while not isinstance(next(slow), StepLog):
            pass
        kept = staying.build(request_for("gate", str(gate)))
        while not isinstance(next(kept), StepLog):
            pass
        going._connection.close()
        world.wait(world.store / "seen" / "cancelled")
        gate.touch()
        assert isinstance(list(kept)[-1], Built)


def test_a_dead_daemon_is_told_in_a_sentence(world: World) -> None:
    with world.connect() as remote:
        events = remote.build(request_for("slow"))
        while not isinstance(next(events), StepLog):
            pass
        world.kill()
        with pytest.raises(PybuildError, match="the daemon"):
            list(events)


def test_the_way_is_chosen_by_flag_then_environment_then_configuration(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYBUILD_INLINE")
    assert wants_inline() is None
    (world.base / "config.toml").write_text("inline = true\n")
    assert wants_inline()
    monkeypatch.setenv("PYBUILD_INLINE", "0")
    assert wants_inline() is False
    assert wants_inline(True)
    monkeypatch.setenv("PYBUILD_INLINE", "1")
    assert wants_inline()
    assert not wants_inline(False)
    (world.base / "config.toml").write_text("inline = \n")
    monkeypatch.delenv("PYBUILD_INLINE")
    with pytest.raises(UsageError):
        wants_inline()


def test_connect_starts_a_daemon_and_finds_it_again(world: World) -> None:
    with connect() as first:
        assert isinstance(first, Remote)
        pid = first.status()["pid"]
    with connect() as second:
        assert isinstance(second, Remote)
        assert second.status()["pid"] == pid
    wait_for(lambda: world.pid() == pid)


def test_without_a_daemon_the_work_is_done_here_and_one_is_started_for_builds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYBUILD_INLINE")
    with connect() as backend:
        assert isinstance(backend, Inline)
    assert not (world.runtime / "start.lock").exists()
    for _ in range(3):
        # Those that come while it is on its way start no other
        with connect(start=True) as backend:
            assert isinstance(backend, Inline | Remote)
    wait_for_start(place())
    pid = world.pid()
    with connect(start=True) as backend:
        assert isinstance(backend, Remote)
        assert backend.status()["pid"] == pid


def test_a_daemon_that_dies_at_its_start_holds_nobody_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYBUILD_INLINE")
    monkeypatch.setattr(start, "daemon_command", lambda: ["/bin/false"])
    with connect(start=True) as backend:
        assert isinstance(backend, Inline)
    wait_for_start(place())
    with connect(start=True) as backend:
        assert isinstance(backend, Inline)
    wait_for_start(place())


def test_a_daemon_that_cannot_be_started_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYBUILD_INLINE")
    monkeypatch.setattr(start, "daemon_command", lambda: ["/no/such/program"])
    with pytest.raises(PybuildError, match="cannot start the daemon"):
        connect(start=True)


def test_a_pull_is_told_alike_and_fails_alike(backend: Backend) -> None:
    *told, last = backend.pull(PullRequest(("app",)))
    assert told == [Transfer(-1, "app", 5, 10)]
    assert isinstance(last, Pulled)
    assert last.images == (Moved("app", "sha256:" + "ef" * 32, fake_engine.ID, True),)
    *told, last = backend.push(PushRequest(("app",)))
    assert (told, type(last)) == ([Transfer(-1, "app", 5, 10)], Pushed)
    last = list(backend.pull(PullRequest(("nope",))))[-1]
    assert isinstance(last, Failed)
    assert last.failure.message == "there is no such image: nope"
