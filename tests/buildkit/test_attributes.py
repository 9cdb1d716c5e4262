"""What the frontend's attributes mean as a request of ours."""

from typing import Any

import pytest

from pybuild.api.events import Read, Reads
from pybuild.api.request import Output, Ulimit
from pybuild.buildkit.attributes import asked
from pybuild.buildkit.definitions import definition_of, image_of
from pybuild.buildkit.grpc import GrpcError
from pybuild.buildkit.solving import follow_paths
from pybuild.errors import UsageError

ID = "sha256:" + 64 * "a"


@pytest.mark.parametrize(
    ("attributes", "fields"),
    [
        ({}, {"pull": "missing", "network": "default", "no_cache": False}),
        ({"no-cache": ""}, {"no_cache": True, "no_cache_filter": ()}),
        ({"no-cache": "a, b"}, {"no_cache": False, "no_cache_filter": ("a", "b")}),
        (
            {"build-arg:X": "1", "build-arg:Y:Z": "", "label:l": "v"},
            {"build_args": {"X": "1", "Y:Z": ""}, "labels": {"l": "v"}},
        ),
        ({"add-hosts": "a=1.2.3.4,b=::1"}, {"extra_hosts": ("a:1.2.3.4", "b:::1")}),
        ({"ulimit": "nofile=1:2,core=0"}, {"ulimits": (Ulimit("nofile", 1, 2), Ulimit("core", 0, 0))}),
        ({"shm-size": "64", "force-network-mode": "none"}, {"shm_size": 64, "network": "none"}),
        ({"image-resolve-mode": "pull", "target": "t"}, {"pull": "always", "target": "t"}),
        ({"platform": "linux/amd64, linux/arm64"}, {"platform": "linux/amd64,linux/arm64"}),
        (
            {"context:a": "docker-image://b", "context:c::linux/amd64": "https://d"},
            {"build_contexts": {"a": "docker-image://b", "c": "https://d"}},
        ),
        (
            {"cache-from": "a,b"},
            {"cache_from": (Output("registry", "", {"ref": "a"}), Output("registry", "", {"ref": "b"}))},
        ),
        ({"attest:provenance": "mode=min", "hostname": "h", "multi-platform": "true", "from-the-future": "x"}, {}),
    ],
)
def test_attributes_become_a_request(attributes: dict[str, str], fields: dict[str, Any]) -> None:
    request = asked(attributes).request
    assert {name: getattr(request, name) for name in fields} == fields


def test_where_things_are() -> None:
    plain = asked({"filename": "D", "context:a": "local:b", "context:c": "input:d"})
    assert (plain.filename, plain.context, plain.context_name, plain.dockerfile_name) == (
        "D",
        "",
        "context",
        "dockerfile",
    )
    assert (plain.named, plain.inputs) == ({"a": "b"}, {"c": "d"})
    away = asked({"context": "https://x/y.git", "dockerfilekey": "own"})
    assert (away.context, away.dockerfile_name) == ("https://x/y.git", "own")
    assert asked({"context": "https://x/y.git"}).dockerfile_name == ""


@pytest.mark.parametrize(
    "attributes",
    [
        {"cgroup-parent": "x"},
        {"add-hosts": "a"},
        {"ulimit": "nofile"},
        {"shm-size": "1g"},
        {"force-network-mode": "bridge"},
        {"cache-imports": "{"},
        {"cache-imports": '[{"no": "type"}]'},
    ],
)
def test_what_cannot_be_meant_is_told(attributes: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        asked(attributes)


def test_caches_are_taken_from_and_given_to_registries_and_directories() -> None:
    given = asked(
        {"cache-imports": '[{"Type": "registry", "Attrs": {"ref": "a"}}]'},
        imports=[
            {"Type": "registry", "Attrs": {"ref": "a"}},
            {"Type": "gha", "Attrs": {}},
            {"Type": "local", "Attrs": {"src": "/c", "digest": "d"}},
            {"Type": "local", "Attrs": {"src": "/c", "digest": "d"}},
        ],
        exports=[
            {"Type": "inline", "Attrs": {}},
            {"Type": "registry", "Attrs": {"ref": "r", "mode": "max", "x": "y"}},
            {"Type": "local", "Attrs": {"dest": "/c", "mode": "max", "tag": "t"}},
        ],
        allow=["network.host", "unknown"],
    ).request
    assert given.cache_from == (
        Output("registry", "", {"ref": "a"}),
        Output("gha", "", {}),
        Output("local", "/c", {"digest": "d"}),
    )
    assert given.cache_to == (
        Output("inline", ""),
        Output("registry", "", {"ref": "r", "mode": "max"}),
        Output("local", "/c", {"mode": "max"}),
    )
    assert given.allow == ("network.host",)
    for export in ({"Type": "local", "Attrs": {}}, {"Type": "registry", "Attrs": {}}):
        with pytest.raises(UsageError):
            asked({}, exports=[export])


def test_a_result_is_handed_on_and_nothing_else() -> None:
    assert image_of(definition_of(ID)) == ID
    for wrong in (b"", definition_of("nothing of ours").replace(b"pybuild://", b"docker-image://"[:10])):
        with pytest.raises(GrpcError, match="LLB"):
            image_of(wrong)


@pytest.mark.parametrize(
    ("reads", "paths"),
    [
        ([], None),
        ([Read("a", context="other")], None),
        ([Read("."), Read("a")], []),
        ([Read("/src/x"), Read("*.txt"), Read("../up")], ["src/x", "*.txt", "up"]),
        ([Read("a/./b/*.c", parents=True)], ["a/b/*.c"]),
        ([Read("a/b/**/c")], ["a/b"]),
        ([Read("**/c")], []),
    ],
)
def test_the_client_sends_what_the_plan_reads(reads: list[Read], paths: list[str] | None) -> None:
    assert follow_paths(Reads(tuple(reads))) == paths
