"""The store's size: limits that builds keep by themselves, and what df says of it."""

import io
import json
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from pybuild.client.wire import Connection
from support.program import Pybuild

pytestmark = pytest.mark.userns

MB = 1_000_000


def fill(name: str, *, amount: int = 3 * MB) -> str:
    return f"FROM base\nRUN head -c {amount} /dev/urandom > /{name}\n"


def blobs(pybuild: Pybuild) -> int:
    return sum(path.stat().st_size for path in (pybuild.store / "blobs").rglob("*") if path.is_file())


def size(pybuild: Pybuild) -> int:
    rows = json.loads(pybuild("df", "--json").out)["rows"]
    return int(sum(row["size"] for row in rows))


@pytest.mark.parametrize("door", ["inline", pytest.param("daemon", marks=pytest.mark.slow)])
def test_builds_keep_the_store_within_the_limit(request: pytest.FixtureRequest, context: Path, door: str) -> None:
    pybuild: Pybuild = request.getfixturevalue(door)
    pybuild.add_base()
    for name in ("a", "b"):
        pybuild.build(context, dockerfile=fill(name))
    # Used again, and so not the one to go, though it was made first
    limit = {"PYBUILD_MAX_SIZE": str(size(pybuild) - MB)}
    assert pybuild.build(context, dockerfile=fill("a"), env=limit).redone() == []
    told = pybuild.build(context, dockerfile=fill("c"), env=limit)
    assert any("to keep it within its limits" in event.get("message", "") for event in told.events)
    assert size(pybuild) <= int(limit["PYBUILD_MAX_SIZE"])
    assert pybuild.build(context, dockerfile=fill("a")).redone() == []
    assert pybuild.build(context, dockerfile=fill("c")).redone() == []
    assert len(pybuild.build(context, dockerfile=fill("b")).redone()) == 1


def test_a_build_that_adds_nothing_keeps_the_limit_too(inline: Pybuild, context: Path) -> None:
    (context / "f").write_bytes(bytes(MB))
    for name in ("a", "b"):
        inline.build(context, dockerfile=f"FROM scratch\nCOPY f /{name}\n")
    text = "FROM scratch\nCOPY f /b\n"
    limit = size(inline) - MB // 2
    noted = inline.store / "fitted"
    told = inline.build(context, f"--max-size={limit}", dockerfile=text)
    assert told.redone() == []
    assert any("to keep it within its limits" in event.get("message", "") for event in told.events)
    assert size(inline) <= limit
    # Looked at once more, as something went, and then no more while nothing comes
    looked: list[int] = []
    for _ in range(2):
        inline.build(context, f"--max-size={limit}", dockerfile=text)
        looked.append(noted.stat().st_ino)
    assert looked[0] == looked[1]
    # Whoever adds without a limit is found by the next who has one
    inline.build(context, dockerfile="FROM scratch\nCOPY f /c\n")
    inline.build(context, f"--max-size={limit}", dockerfile=text)
    assert size(inline) <= limit
    # What cannot be done is not tried again and again
    inline.build(context, "--max-size=1k", "-t", "kept", dockerfile=text)
    before = noted.stat().st_ino
    inline.build(context, "--max-size=1k", dockerfile=text)
    assert noted.stat().st_ino == before


@pytest.mark.slow
def test_limits_come_from_options_the_environment_and_the_settings(inline: Pybuild, context: Path) -> None:
    inline.add_base()
    settings = inline.home / "config.toml"
    settings.write_text('max_size = "1k"\n')
    env = {"PYBUILD_CONFIG": str(settings)}
    limited = inline.build(context, "--min-free=1", dockerfile=fill("a"), env=env)
    # The image just built stays for whoever asked for it, nothing else does
    assert limited.events[-1]["image_id"] in inline("images", "-aq", "--no-trunc").text
    assert "base:latest" in inline.names()
    assert len(inline.build(context, dockerfile=fill("a"), env={**env, "PYBUILD_MAX_SIZE": ""}).redone()) == 1
    assert inline.build(context, "--max-size=1g", dockerfile=fill("a"), env=env).redone() == []
    settings.write_text("max_size = true\n")
    assert "is no size" in inline("build", context, env=env, status=2).err


def test_a_running_build_keeps_what_it_uses(daemon: Pybuild, context: Path) -> None:
    daemon.add_base()
    daemon.build(context, dockerfile=fill("kept"))
    slow = "FROM base\nRUN while ! test -e /c/go; do sleep 0.1; done\n"
    (context / "slow").write_text(slow.replace("RUN", "RUN --mount=type=cache,target=/c"))
    (context / "quick").write_text(fill("quick") + "RUN --mount=type=cache,target=/c touch /c/here\n")
    results: list[int] = []
    runner = threading.Thread(
        target=lambda: results.append(daemon("build", "-f", context / "slow", context).status), daemon=True
    )
    runner.start()
    daemon("build", "-f", context / "quick", "--max-size=1k", context)
    assert daemon.build(context, dockerfile=fill("kept")).redone() == []
    (context / "go").write_text("FROM base\nRUN --mount=type=cache,target=/c touch /c/go\n")
    daemon("build", "-f", context / "go", context)
    runner.join(60)
    assert results == [0]


def test_builds_by_clients_of_docker_keep_the_limits_of_the_daemon(daemon: Pybuild, context: Path) -> None:
    daemon.env["PYBUILD_MAX_SIZE"] = "1k"
    daemon.add_base()
    daemon.build(context, "--max-size=1g", dockerfile=fill("a"))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(fill("b"))
        tar.addfile(member, io.BytesIO(fill("b").encode()))
    [socket] = [path for path in daemon.runtime.rglob("*") if path.is_socket()]
    connection = Connection(socket)
    try:
        answer = connection.request("POST", "/build", stream=io.BytesIO(out.getvalue())).read().decode()
    finally:
        connection.close()
    assert "Successfully built" in answer
    assert len(daemon.build(context, "--max-size=1g", dockerfile=fill("a")).redone()) == 1


@pytest.mark.slow
def test_df_is_what_the_disk_says(pybuild: Pybuild, context: Path) -> None:
    pybuild.add_base()
    (context / "f").write_bytes(b"x" * MB)
    text = fill("a") + "COPY f /f\nRUN --mount=type=cache,target=/c head -c 500000 /dev/urandom > /c/x\n"
    pybuild.build(context, "-t", "app", dockerfile=text)
    pybuild.build(context, dockerfile=fill("b"))
    if pybuild.door == "daemon":
        pybuild("daemon", "stop")
    rows = {
        row["type"]: row["size"] for row in json.loads(pybuild("df", "--json", env={"PYBUILD_INLINE": "1"}).out)["rows"]
    }

    def du(*parts: str) -> int:
        paths = [str(pybuild.store / part) for part in parts]
        told = subprocess.run(["du", "-scB1", *paths], capture_output=True, text=True, check=False)
        return int(told.stdout.splitlines()[-1].split()[0])

    # Directories hold entries of files that were there: within some blocks
    assert abs(rows["Snapshots"] - du("snapshots")) < 64 << 10
    assert abs(rows["Cache Mounts"] - du("caches")) < 64 << 10
    assert abs(rows["Images"] + rows["Build Cache"] - du("blobs", "tocs")) < 64 << 10
    assert sum(rows.values()) == du(".")
    assert rows["Images"] > 4 * MB
    assert rows["Build Cache"] < rows["Images"] + 4 * MB


@pytest.mark.slow
def test_prune_by_size_and_type(inline: Pybuild, context: Path) -> None:
    inline.add_base()
    for name in ("a", "b"):
        inline.build(context, dockerfile=fill(name))
    limit = size(inline) - MB
    dry = json.loads(inline("prune", "--dry-run", "--json", f"--max-size={limit}").out)
    assert dry["reclaimed"] >= MB
    assert all({"kind", "name", "size", "reason", "last_used"} <= item.keys() for item in dry["items"])
    assert json.loads(inline("prune", "-f", "--json", f"--max-size={limit}").out) == dry
    assert size(inline) <= limit
    kinds = {
        item["kind"] for item in json.loads(inline("prune", "-f", "--json", "--filter", "type=snapshot").out)["items"]
    }
    assert kinds <= {"snapshot"}
    inline("prune", "-f", "--filter", "type=regular")
    assert len(inline.build(context, dockerfile=fill("b")).redone()) == 1
    assert "unknown type" in inline("prune", "-f", "--filter", "type=x", status=2).err
    assert "cannot be together" in inline("prune", "-f", "--max-size=1g", "--filter", "until=1h", status=2).err
