"""The shared data of all rules, where it is at hand."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pybuild.checks.rules import RULES

from .looking import look

ROOT = Path(os.environ.get("PYBUILD_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance")
PLACE = ROOT / "lint" / "rules.json"

if not PLACE.is_file():
    pytest.skip("the conformance data is not here; PYBUILD_CONFORMANCE may name its place", allow_module_level=True)

DATA: list[dict[str, Any]] = json.loads(PLACE.read_text(encoding="utf-8"))["rules"]


def test_rules_are_those_of_the_data() -> None:
    known = {(rule.name, rule.slug or None, rule.experimental) for rule in RULES.values()}
    assert known == {(rule["name"], rule["slug"], rule["experimental"]) for rule in DATA}


@pytest.mark.parametrize("rule", DATA, ids=lambda rule: rule["name"])
def test_rule_speaks_and_is_silent(rule: dict[str, Any]) -> None:
    for case in rule["bad"] + rule["good"]:
        found = look(case["dockerfile"], case.get("args"), case.get("dockerignore", ""))
        said = [(finding.line, finding.message) for finding in found if finding.rule == rule["name"]]
        expected = [(warning["line"], warning["detail"]) for warning in case.get("warnings", ())]
        if rule.get("order") == "any":
            said, expected = sorted(said), sorted(expected)
        assert said == expected, case["dockerfile"]
