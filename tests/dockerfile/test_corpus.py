"""Whole files, each with the result it parses to."""

from pathlib import Path

import pytest

from pybuild.dockerfile.lines import decode
from pybuild.dockerfile.nodes import read_nodes
from pybuild.dockerfile.parse import parse

from .dump import dump

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
def test_file_parses_to_its_result(name: str) -> None:
    data = (CORPUS / name / "Dockerfile").read_bytes()
    raw = read_nodes(decode(data, name), name)
    result = (CORPUS / name / "result").read_text(encoding="utf-8")
    assert "".join(dump(node) + "\n" for node in raw.nodes) == result


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
def test_file_makes_stages(name: str) -> None:
    dockerfile = parse((CORPUS / name / "Dockerfile").read_bytes(), name=name)
    count = len(dockerfile.args) + sum(1 + len(stage.instructions) for stage in dockerfile.stages)
    assert count == len((CORPUS / name / "result").read_text(encoding="utf-8").splitlines())
