from typing import Any

import pytest
from multidict import MultiDict

from pybuild.api.events import Failed, Failure, Planned, PlannedStep, StepLog, StepStarted, Transfer
from pybuild.api.request import Ulimit
from pybuild.daemon.dockerbuild import DockerStream, request_from_query
from pybuild.errors import UsageError


def test_parameters_become_a_request() -> None:
    query = MultiDict(
        [
            ("t", "a:1"),
            ("t", "b"),
            ("dockerfile", "x/Dockerfile"),
            ("buildargs", '{"X":"7","FOO":null,"N":3}'),
            ("labels", '{"l":"1"}'),
            ("target", "dev"),
            ("nocache", "True"),
            ("networkmode", "none"),
            ("extrahosts", "h:1.2.3.4"),
            ("shmsize", "67108864"),
            ("ulimits", '[{"Name":"nofile","Soft":10,"Hard":20}]'),
            ("platform", "linux/amd64"),
            ("cachefrom", '["app:1"]'),
        ]
    )
    request = request_from_query(query)
    assert request.tags == ("a:1", "b")
    assert request.dockerfile == "x/Dockerfile"
    assert request.build_args == {"X": "7", "FOO": None, "N": "3"}
    assert request.labels == {"l": "1"}
    assert (request.target, request.no_cache, request.network) == ("dev", True, "none")
    assert request.extra_hosts == ("h:1.2.3.4",)
    assert request.shm_size == 64 << 20
    assert request.ulimits == (Ulimit("nofile", 10, 20),)
    assert request.platform == "linux/amd64"
    assert [source.attrs["ref"] for source in request.cache_from] == ["app:1"]
    assert request.context == ""


@pytest.mark.parametrize(("value", "meant"), [("1", True), ("True", True), ("0", False), ("False", False), ("", False)])
def test_booleans_follow_dockers_rule(value: str, meant: bool) -> None:
    assert request_from_query(MultiDict({"nocache": value})).no_cache is meant


def test_a_path_of_the_host_cannot_be_asked_for() -> None:
    # Only our own dialect names directories
    assert request_from_query(MultiDict({"context": "/etc", "outputs": "[]"})).context == ""


def failed(**facts: Any) -> Failed:
    return Failed(Failure("E", "it broke", **facts), 0, 1.0)


def test_a_failed_run_tells_its_status_where_clients_look() -> None:
    [item] = DockerStream().objects(failed(status=7))
    assert item["errorDetail"]["code"] == 7
    assert item["error"].endswith("returned a non-zero code: 7")


def test_an_error_in_the_dockerfile_has_its_place() -> None:
    [item] = DockerStream().objects(failed(file="Dockerfile", line=3))
    assert item["error"] == "Dockerfile:3: it broke"
    assert "code" not in item["errorDetail"]
    [item] = DockerStream().objects(failed(file="Dockerfile", line=3, hint="try this"))
    assert item["error"] == item["errorDetail"]["message"] == "Dockerfile:3: it broke (try this)"
    [item] = DockerStream().objects(failed(file="Dockerfile", line=3, status=7))
    assert item["error"] == "Dockerfile:3: it broke: returned a non-zero code: 7"


def test_quiet_tells_the_output_before_a_failure() -> None:
    docker = DockerStream(quiet=True)
    assert docker.objects(Planned((PlannedStep("[a 1/1] RUN x", "a", 1),))) == []
    assert docker.objects(StepStarted(0, 1.0)) == []
    assert docker.objects(StepLog(0, "stderr", "no\n")) == []
    texts = [item.get("stream", "") for item in docker.objects(failed())]
    assert texts[:3] == ["Step 1/1 : RUN x", "\n", "\x1b[91mno\n\x1b[0m"]


def test_byte_counts_are_progress() -> None:
    [item] = DockerStream().objects(Transfer(2, "reading", 1, 2))
    assert item == {"status": "reading", "progressDetail": {"current": 1, "total": 2}, "id": "2"}
    [item] = DockerStream().objects(Transfer(-1, "host/app 0123456789ab", 2, 2))
    assert item == {"status": "Pull complete", "progressDetail": {}, "id": "0123456789ab"}


def test_ulimits_must_be_whole() -> None:
    with pytest.raises(UsageError):
        request_from_query(MultiDict({"ulimits": '[{"Name":"nofile"}]'}))
