"""The document of all routes is the one that is served, and says what the implementation does."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pybuild.client.wire import Connection
from pybuild.daemon import app, serve
from pybuild.daemon.answers import API_VERSION, MIN_API_VERSION
from support.fake_world import World

ROOM = Path(serve.__file__).parent
DOCUMENT: dict[str, Any] = json.loads((ROOM / "openapi.json").read_text())
METHODS = ("get", "head", "post", "delete", "put", "patch")


@pytest.fixture
def connection(world: World) -> Any:
    world.connect().__exit__(None, None, None)
    connection = Connection(world.socket)
    yield connection
    connection.close()


def faults(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """Return how a value differs from a schema, in what the document uses of that language."""
    if "$ref" in schema:
        return faults(value, DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]], where)
    if value is None and schema.get("nullable"):
        return []
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    if not isinstance(value, types[schema["type"]]):
        return [f"{where} is no {schema['type']}: {value!r}"]
    found: list[str] = []
    if schema["type"] == "object":
        found += [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, inner in schema.get("properties", {}).items():
            found += faults(value[name], inner, f"{where}.{name}") if name in value else []
    if schema["type"] == "array":
        for number, item in enumerate(value):
            found += faults(item, schema["items"], f"{where}[{number}]")
    return found


def routes() -> set[tuple[str, str]]:
    """Return methods and paths of the application, words that a path may have written out."""
    found = set()
    for method, pattern, _ in (*app.DOCKER, *app.OURS):
        kinds = re.search(r"\{kind:([^}]*)\}", pattern)
        for kind in kinds[1].split("|") if kinds else [""]:
            path = pattern.replace(kinds[0], kind) if kinds else pattern
            found.add((method.lower(), re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)))
    return found


def described() -> set[tuple[str, str]]:
    """Return methods and paths of the document; one that answers all methods shows the first."""
    found = set()
    for path, entry in DOCUMENT["paths"].items():
        named = {(method, path) for method in METHODS if method in entry}
        if entry.get("x-any-method"):
            found.add(("*", path))
            named -= {("get", path)} - routes()
        found |= named
    return found


def test_the_document_has_the_routes_of_the_application_and_no_others() -> None:
    assert described() == routes()


def test_the_document_names_the_versions() -> None:
    assert f"{MIN_API_VERSION} to {API_VERSION}" in DOCUMENT["info"]["description"]


def test_parameters_are_those_that_the_code_asks_for() -> None:
    code = "".join(path.read_text() for path in ROOM.glob("*.py"))
    asked = {*re.findall(r"query(?:\.get|\.getall)?[\[(]\"([\w-]+)\"", code)}
    asked |= {*re.findall(r"(?:boolean|integer|json_parameter)\((?:request\.)?query, \"([\w-]+)\"", code)}
    told = {
        parameter["name"]
        for entry in DOCUMENT["paths"].values()
        for operation in entry.values()
        if isinstance(operation, dict)
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    }
    assert asked <= told, asked - told
    # Docker's parameters that make no difference here
    assert {name for name in told if f'"{name}"' not in code} == {"term", "rm", "forcerm"}


def contents() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (f"{method} {path} {status}", content_type, content)
        for path, entry in DOCUMENT["paths"].items()
        for method, operation in entry.items()
        if isinstance(operation, dict)
        for status, response in operation["responses"].items()
        for content_type, content in response.get("content", {}).items()
    ]


def test_examples_are_as_their_schemas() -> None:
    shown = [(where, content) for where, _, content in contents() if "example" in content]
    assert len(shown) > 15
    assert [fault for where, content in shown for fault in faults(content["example"], content["schema"], where)] == []


def test_every_reference_is_to_something() -> None:
    used = {*re.findall(r"#/components/schemas/(\w+)", json.dumps(DOCUMENT))}
    assert used <= {*DOCUMENT["components"]["schemas"]}
    assert faults({"a": 1}, {"type": "object", "required": ["b"], "properties": {"a": {"type": "string"}}}) != []


def test_the_daemon_serves_the_document(connection: Connection) -> None:
    assert connection.request("GET", "/pybuild/v1/openapi.json").json() == DOCUMENT


def test_answers_are_as_their_schemas(connection: Connection) -> None:
    looked_at = 0
    for path, entry in DOCUMENT["paths"].items():
        content = entry.get("get", {}).get("responses", {}).get("200", {}).get("content", {}).get("application/json")
        # Events have no end, and the other one asks a registry
        if content is None or path in ("/events", "/distribution/{name}/json"):
            continue
        answer = connection.request("GET", path.replace("{name}", quote("app"))).json()
        assert faults(answer, content["schema"], path) == []
        looked_at += 1
    assert looked_at > 8
