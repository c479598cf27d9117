"""Argo's and Flagger's objects, held against extracts of their published definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tasks.registry.rollouts import RolloutAddress
from tasks.rollout.outside import argo_template, flagger_canary

HERE = Path(__file__).resolve().parent / "published"
ADDRESS = RolloutAddress("essay-scorer", "a100-mig-1g.5gb")
GATE = "http://gate.enginegate:8090"
ENGINE = "essay-scorer-a100-mig-1g.5gb-fp16@0123456789ab"
ASKED = "?engine=essay-scorer-a100-mig-1g.5gb-fp16%400123456789ab"


def validator(name: str) -> Draft202012Validator:
    """Of a definition, in which nothing else may stand than what it names: a cluster would leave it out in silence."""
    return Draft202012Validator(_closed(yaml.safe_load((HERE / f"{name}.yaml").read_text())))


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return [_closed(each) for each in schema] if isinstance(schema, list) else schema
    found = {key: _closed(value) for key, value in schema.items()}
    return {**found, "additionalProperties": False} if isinstance(schema.get("properties"), dict) else found


def faults(name: str, document: Any) -> list[str]:
    return [error.message for error in validator(name).iter_errors(document)]


def test_both_objects_meet_the_published_definitions() -> None:
    assert faults("argo-analysis-template", argo_template(ADDRESS, ENGINE, GATE)) == []
    assert faults("flagger-canary", flagger_canary(ADDRESS, ENGINE, GATE)) == []


def test_the_definitions_find_what_is_wrong() -> None:
    template, canary = argo_template(ADDRESS, ENGINE, GATE), flagger_canary(ADDRESS, ENGINE, GATE)
    template["spec"]["metrics"][0]["success"] = template["spec"]["metrics"][0].pop("name")
    canary["spec"]["analysis"]["webhooks"][0]["type"] = "confirm"
    canary["spec"]["analysis"]["stepWeight"] = 5
    assert len(faults("argo-analysis-template", template)) == 2
    assert len(faults("flagger-canary", canary)) == 2


def test_argo_never_ends_a_run_as_a_success_because_time_is_up() -> None:
    (metric,) = argo_template(ADDRESS, ENGINE, GATE)["spec"]["metrics"]
    assert "count" not in metric
    assert (metric["successCondition"], metric["consecutiveSuccessLimit"]) == ('result == "pass"', 1)
    assert (metric["failureCondition"], metric["failureLimit"]) == ('result == "fail"', 0)


@pytest.mark.parametrize("gate", [GATE, f"{GATE}/"])
def test_the_gate_is_asked_about_this_rollout(gate: str) -> None:
    (metric,) = argo_template(ADDRESS, ENGINE, gate)["spec"]["metrics"]
    assert metric["provider"]["web"]["url"] == f"{GATE}/essay-scorer/a100-mig-1g.5gb{ASKED}"
    urls = [hook["url"] for hook in flagger_canary(ADDRESS, ENGINE, gate)["spec"]["analysis"]["webhooks"]]
    assert urls == [f"{GATE}/essay-scorer/a100-mig-1g.5gb{each}{ASKED}" for each in ("/increase", "", "/rollback")]
