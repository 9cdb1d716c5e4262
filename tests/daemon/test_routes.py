"""The Docker Engine API as clients of it see it."""

import io
import json
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from pybuild.client.wire import Connection
from pybuild.errors import NotFoundError, PybuildError
from support import fake_engine
from support.fake_world import World

Ask = Callable[..., Any]


@pytest.fixture
def connection(world: World) -> Any:
    world.connect().__exit__(None, None, None)
    connection = Connection(world.socket)
    yield connection
    connection.close()


def tar_of(name: str, text: str) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text.encode()))
    out.seek(0)
    return out


def stream(response: Any) -> list[dict[str, Any]]:
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.headers["content-type"] == "application/json"
    return [json.loads(line) for line in response.read().split(b"\r\n") if line]


def status_of(connection: Connection, method: str, path: str, **options: Any) -> tuple[int, str]:
    try:
        response = connection.request(method, path, **options)
    except PybuildError as error:
        return error.http_status, error.message
    return response.status, response.read().decode()


@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.45"])
def test_routes_have_versions(connection: Connection, prefix: str) -> None:
    assert connection.request("GET", f"{prefix}/_ping").read() == b"OK"
    assert connection.request("GET", f"{prefix}/images/json").json()[0]["Id"] == fake_engine.ID


def test_ping_tells_the_version_in_its_headers(connection: Connection) -> None:
    response = connection.request("GET", "/_ping")
    response.read()
    assert response.headers["api-version"] == "1.45"
    assert response.headers["ostype"] == "linux"
    assert response.headers["docker-experimental"] == "false"


@pytest.mark.parametrize(("version", "word"), [("9.99", "too new"), ("1.12", "too old")])
def test_other_versions_are_refused(connection: Connection, version: str, word: str) -> None:
    status, message = status_of(connection, "GET", f"/v{version}/images/json")
    assert (status, word in message) == (400, True)


def test_unknown_routes_are_not_found(connection: Connection) -> None:
    for method, path in (("GET", "/nothing"), ("DELETE", "/version"), ("POST", "/v1.45/nothing/at/all")):
        assert status_of(connection, method, path) == (404, "page not found")


def test_version_and_info_have_what_clients_read(connection: Connection) -> None:
    version = connection.request("GET", "/version").json()
    for key in ("Version", "ApiVersion", "MinAPIVersion", "Os", "Arch", "KernelVersion", "GitCommit", "GoVersion"):
        assert key in version
    assert connection.request("GET", "/info").json()["SecurityOptions"] == ["name=rootless"]


def test_names_with_slashes_ports_and_digests_are_routed(connection: Connection) -> None:
    assert status_of(connection, "GET", "/images/host:5000/a/b:1/json") == (404, "No such image: host:5000/a/b:1")
    assert status_of(connection, "GET", f"/images/{fake_engine.ID}/json")[0] == 200
    assert status_of(connection, "POST", "/images/app/tag?repo=docker.io/library/x&tag=2")[0] == 201
    assert "docker.io/library/x:2" in connection.request("GET", "/images/json").json()[0]["RepoTags"]
    assert status_of(connection, "DELETE", "/images/app")[0] == 200


@pytest.mark.parametrize("filters", ['{"label":{"l=1":true}}', '{"label":["l=1"]}'])
def test_filters_come_as_maps_of_maps_or_lists(connection: Connection, filters: str) -> None:
    found = connection.request("GET", f"/images/json?filters={quote(filters)}").json()
    assert found[0]["Labels"] == {"filters": "{'label': ['l=1']}"}


@pytest.mark.parametrize("filters", ["nonsense", "[]", '{"label":1}', '{"label":' * 2000])
def test_malformed_parameters_are_refused(connection: Connection, filters: str) -> None:
    assert status_of(connection, "GET", f"/images/json?filters={quote(filters[:2000])}")[0] == 400


def test_a_build_answers_with_dockers_stream(connection: Connection) -> None:
    response = connection.request("POST", "/v1.45/build?t=a:1&t=b:2&rm=1&version=1", stream=tar_of("Dockerfile", "x"))
    objects = stream(response)
    text = "".join(item.get("stream", "") for item in objects)
    assert text.startswith("Step 1/2 : FROM scratch\nStep 2/2 : RUN work\ncontext of ")
    assert text.endswith("Successfully built abababababab\nSuccessfully tagged a:1\nSuccessfully tagged b:2\n")
    assert {"aux": {"ID": fake_engine.ID}} in objects


def test_a_quiet_build_answers_with_the_id_alone(connection: Connection) -> None:
    response = connection.request("POST", "/build?q=True", stream=tar_of("Dockerfile", "x"))
    assert stream(response) == [{"stream": fake_engine.ID + "\n"}]


@pytest.mark.parametrize(
    "query",
    [
        "buildargs=%7B",
        "buildargs=%5B%5D",
        "ulimits=%5B1%5D",
        "ulimits=%5B%7B%22Name%22%3A%22nofile%22%7D%5D",
        "shmsize=big",
        "shmsize=%C2%B2",
        "version=2",
        "remote=/etc",
        "isolation=hyperv",
        "squash=1",
        "version=3",
        "outputs=%5B%7B%22Type%22%3A%22local%22%7D%5D",
        "securityopt=%5B%22x%22%5D",
        "cpushares=512",
        "cpusetmems=0",
        "cgroupparent=/a",
        "networkmode=container:x",
        "memory=-2",
        "cachefrom=1",
        "labels=%5B1%5D",
    ],
)
def test_a_build_that_cannot_be_meant_is_refused(connection: Connection, query: str) -> None:
    status, message = status_of(connection, "POST", f"/build?{query}", stream=tar_of("Dockerfile", "x"))
    assert status == 400
    assert "\n" not in message


def test_parameters_that_say_nothing_are_taken_as_such(connection: Connection) -> None:
    query = (
        "buildargs=null&labels=&ulimits=null&networkmode=&shmsize=0&target=&cachefrom=null&memory=0&t=&rm=1&forcerm=0"
    )
    query += "&version=1&outputs=&cpushares=0&cpusetmems=&cgroupparent=&isolation=&pull=&squash=false&remote="
    assert status_of(connection, "POST", f"/build?{query}", stream=tar_of("Dockerfile", "x"))[0] == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]\n", b'{"tags": 1}\n', b'{"ulimits": [{}]}\n', b'{"no": 1}\n'])
def test_our_own_malformed_requests_are_refused(connection: Connection, body: bytes) -> None:
    headers = {"Content-Type": "application/vnd.pybuild.build"}
    status, message = status_of(connection, "POST", "/build", headers=headers, body=body)
    assert (status, "malformed build request" in message) == (400, True)
    assert connection.request("GET", "/pybuild/v1/status").json()["builds"] == 0


def test_load_save_and_import_speak_docker(connection: Connection) -> None:
    assert stream(connection.request("POST", "/images/load?quiet=1", stream=io.BytesIO(b"tar"))) == [
        {"stream": "Loaded image: size-3:latest\n"},
        {"stream": f"Loaded image ID: {fake_engine.ID}\n"},
    ]
    assert (
        connection.request("GET", "/images/get?names=app&names=app:latest").read().startswith(b"docker none app app:")
    )
    assert connection.request("GET", f"/images/{fake_engine.ID}/get").read().startswith(b"docker none sha256:")
    answer = connection.request("POST", "/images/create?fromSrc=-&repo=r&tag=1&message=m", stream=io.BytesIO(b"tar"))
    assert stream(answer) == [{"status": fake_engine.ID}]
    assert status_of(connection, "POST", "/images/create?repo=busybox")[0] == 400


def test_prune_and_df_have_dockers_shapes(connection: Connection) -> None:
    assert connection.request("POST", "/images/prune").json() == {
        "ImagesDeleted": [{"Deleted": fake_engine.ID}],
        "SpaceReclaimed": 10,
    }
    assert connection.request("POST", "/build/prune").json()["CachesDeleted"] == ["c1"]
    usage = connection.request("GET", "/system/df").json()
    assert usage["Containers"] == usage["Volumes"] == usage["BuildCache"] == []


def test_browsers_are_refused(connection: Connection) -> None:
    assert status_of(connection, "GET", "/images/json", headers={"Origin": "https://example.org"})[0] == 403


def test_an_early_error_reaches_a_client_that_still_sends(connection: Connection) -> None:
    body = io.BytesIO(b"x" * (8 << 20))
    assert status_of(connection, "POST", "/build?version=2", stream=body)[0] == 400


def test_images_are_pulled_and_pushed_as_docker_does(connection: Connection) -> None:
    pulled = stream(connection.request("POST", "/v1.45/images/create?fromImage=app&tag="))
    assert pulled == [
        {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "app"},
        {"status": "Digest: sha256:" + "ef" * 32},
        {"status": "Status: Downloaded newer image for app"},
    ]
    # Docker's clients show nothing but the message: the hint is in it
    for method, path, message in (
        (
            "POST",
            "/images/create?fromImage=host:5000/x/nope&tag=2",
            "there is no such image: host:5000/x/nope:2 (check",
        ),
        ("GET", "/images/nope/json", "No such image: nope (see `pybuild images`)"),
    ):
        told = json.loads(raw_answer(connection, method, path).partition(b"\r\n\r\n")[2])
        assert told["message"].startswith(message)
        # Our own finds it apart
        with pytest.raises(NotFoundError) as caught:
            connection.request(method, path)
        assert f"{caught.value.message} ({caught.value.hint})" == told["message"]
    pushed = stream(connection.request("POST", "/images/app/push", body=b"{}"))
    assert pushed[0] == {"status": "The push refers to repository [docker.io/library/app]"}
    assert pushed[-1]["aux"] == {"Tag": "app", "Digest": "sha256:" + "ef" * 32, "Size": 0}
    headers = {"X-Registry-Auth": "!!!"}
    assert status_of(connection, "POST", "/images/app/push?tag=1", headers=headers) == (
        400,
        "malformed header: X-Registry-Auth",
    )


def test_errors_are_json_without_a_charset(connection: Connection) -> None:
    # Docker's client compares the header as a whole
    for method, path in (("GET", "/nothing"), ("GET", "/images/nothing/json"), ("POST", "/containers/create")):
        raw = raw_answer(connection, method, path)
        assert b"\r\nContent-Type: application/json\r\n" in raw
        assert set(json.loads(raw.partition(b"\r\n\r\n")[2])) >= {"message"}


def raw_answer(connection: Connection, method: str, path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(connection.path))
        peer.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: peer.recv(65536), b""))


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/containers/create", 501, "does not run containers"),
        ("POST", "/containers/create?name=buildx_buildkit_x0", 501, "driver docker"),
        ("GET", "/containers/a/json", 404, "No such container: a"),
        ("POST", "/containers/a/start", 404, "No such container: a"),
        ("DELETE", "/volumes/v", 404, "no such volume: v"),
        ("POST", "/networks/create", 501, "does not run containers"),
        ("POST", "/commit?container=a", 501, "no container"),
        ("POST", "/exec/a/start", 501, "does not run containers"),
        ("GET", "/swarm", 501, "swarm"),
        ("GET", "/services/a", 501, "swarm"),
        ("GET", "/plugins/a/json", 404, "no such plugin: a"),
        ("POST", "/plugins/pull", 501, "plugins"),
        ("GET", "/images/search?term=a", 501, "hub.docker.com"),
    ],
)
def test_what_is_not_here_is_told_in_a_sentence(
    connection: Connection, method: str, path: str, status: int, message: str
) -> None:
    for prefix in ("", "/v1.41"):
        found, told = status_of(connection, method, prefix + path)
        assert (found, message in told) == (status, True), told


def test_lists_of_what_is_not_here_are_empty(connection: Connection) -> None:
    for path in ("/containers/json?all=1", "/networks", "/plugins"):
        assert connection.request("GET", path).json() == []
    assert connection.request("GET", "/volumes").json()["Volumes"] == []
    for kind in ("containers", "networks", "volumes"):
        assert None in connection.request("POST", f"/{kind}/prune").json().values()


def test_fields_follow_the_version(connection: Connection) -> None:
    def ask(version: str, path: str) -> Any:
        return connection.request("GET", f"/v{version}{path}").json()

    assert ask("1.43", "/images/json")[0]["VirtualSize"] == 7_050_000
    assert "VirtualSize" not in ask("1.44", "/images/json")[0]
    assert "ContainerConfig" in ask("1.44", "/images/app/json")
    assert "ContainerConfig" not in ask("1.45", "/images/app/json")
    assert "BuilderSize" in ask("1.41", "/system/df")
    assert "BuilderSize" not in ask("1.42", "/system/df")
    assert {*ask("1.45", "/system/df?type=volume")} == {"Volumes"}


def test_events_are_kept_and_filtered(connection: Connection) -> None:
    connection.request("POST", "/images/app/tag?repo=x&tag=1").read()
    connection.request("POST", "/build?t=b:1", stream=tar_of("Dockerfile", "x")).read()
    connection.request("DELETE", "/images/x:1").read()
    connection.request("POST", "/images/prune").read()

    def events(filters: str = "", since: str = "0") -> list[dict[str, Any]]:
        path = f"/events?since={since}&until={time.time()}&filters={quote(filters)}"
        return [json.loads(line) for line in connection.request("GET", path).read().splitlines()]

    assert [event["Action"] for event in events()] == ["tag", "tag", "untag", "delete", "delete", "prune"]
    assert [event["Actor"]["Attributes"]["name"] for event in events('{"event":["tag"]}')] == ["x:1", "b:1"]
    assert [event["Action"] for event in events('{"image":{"x":true}}')] == ["tag", "untag"]
    assert {event["Action"] for event in events('{"label":["a.b=c"]}')} == {"tag", "untag", "delete"}
    assert events('{"label":["a.b=d"]}') == events('{"container":["x"]}') == events(since="9e9") == []
    assert len({event["timeNano"] for event in events()}) == 6
    for query in ("since=then", "since=nan", "filters=%7B%22sort%22%3A%5B%22x%22%5D%7D"):
        assert status_of(connection, "GET", f"/events?{query}")[0] == 400


def test_what_fails_before_the_first_event_has_a_status(connection: Connection) -> None:
    # The fake takes its orders from the context of ours
    body = json.dumps({"context": "/", "dockerfile_text": "early"}).encode() + b"\n"
    headers = {"Content-Type": "application/vnd.pybuild.build"}
    ours = connection.request("POST", "/build", headers=headers, body=body)
    assert ours.status == 200
    assert json.loads(ours.read().splitlines()[-1])["failure"]["message"] == "it cannot begin"
    assert status_of(connection, "POST", "/build?target=early", stream=tar_of("Dockerfile", "x")) == (
        400,
        "it cannot begin",
    )
    assert status_of(connection, "GET", "/_ping")[0] == 200


def test_logins_that_cannot_be_meant_are_refused(connection: Connection) -> None:
    for body in (b"", b"[]", b'{"serveraddress":"a/b"}', b'{"username":"u"}'):
        assert status_of(connection, "POST", "/auth", body=body)[0] == 400


def test_buildkit_is_not_imported_before_a_client_speaks_it() -> None:
    code = "import sys, pybuild.daemon.app, pybuild.daemon.buildkit; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in done.stdout.split()} | {*done.stdout.split()}
    assert "aiohttp" in loaded
    assert not {"h2", "hpack", "pybuild.buildkit"} & loaded
