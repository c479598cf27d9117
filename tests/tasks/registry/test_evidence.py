from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tasks.records import EngineManifest, Override
from tasks.registry.evidence import find_contradictions, find_objections, policy_digest
from tests.tasks.tiny import make_outcome, manifest_of
from validation.rules import Rule
from validation.verdict import decide

if TYPE_CHECKING:
    from tasks.store.local import LocalStore

OVERRIDE = Override(reason="a demo", who="bob", when="2026-11-20T12:00:00+00:00")


@pytest.mark.parametrize(
    ("noise", "changes", "objections"),
    [
        (0.0001, {}, []),
        (0.3, {"override": OVERRIDE}, []),
        (0.3, {}, ["verdict: is fail, and only a pass may be registered"]),
    ],
)
def test_a_manifest_that_holds_together_is_admitted_by_a_pass_or_an_override_alone(
    store: LocalStore, noise: float, changes: dict[str, Any], objections: list[str]
) -> None:
    manifest = manifest_of(store, make_outcome(store, noise=noise), **changes)
    assert find_contradictions(manifest) == []
    assert find_objections(manifest) == objections


def test_another_count_of_samples_that_would_decide_is_no_contradiction(store: LocalStore) -> None:
    undecided = manifest_of(store, make_outcome(store, noise=0.0118), override=OVERRIDE)
    rules = undecided.verdict.rules
    assert any(rule.needed for rule in rules)
    older = [replace(rule, needed=77, sentence="as said before") if rule.needed else rule for rule in rules]
    verdict = replace(undecided.verdict, rules=tuple(older))
    assert find_contradictions(undecided.model_copy(update={"verdict": verdict})) == []


def test_an_override_silences_no_contradiction(store: LocalStore) -> None:
    failed = manifest_of(store, make_outcome(store, noise=0.3), override=OVERRIDE)
    forged = failed.model_copy(update={"comparison": manifest_of(store, make_outcome(store)).comparison})
    assert find_contradictions(forged) == [
        "verdict: does not follow from the stored comparison under the stored policy"
    ]


def test_evidence_of_another_plan_contradicts_the_manifest(store: LocalStore) -> None:
    """Of FP16's comparison beside INT8's plan, say."""
    manifest = manifest_of(store, make_outcome(store))
    assert find_contradictions(manifest.model_copy(update={"compared": manifest.plan.digest})) == []
    other = f"sha256:{'0' * 64}"
    (fault,) = find_contradictions(manifest.model_copy(update={"compared": other}))
    assert fault == f"comparison: is that of plan {other}, and the engine's is {manifest.plan.digest}"


def test_a_manifest_of_before_groups_reads_and_verifies(store: LocalStore) -> None:
    manifest = manifest_of(store, make_outcome(store))
    content = manifest.model_dump(mode="json")
    for part in (*content["comparison"]["measurements"], *content["verdict"]["rules"]):
        del part["rows"]
    del content["comparison"]["independent"], content["comparison"]["hidden"]
    assert EngineManifest.model_validate(content) == manifest
    assert find_contradictions(EngineManifest.model_validate(content)) == []


def test_a_manifest_whose_sentences_quote_the_data_as_they_are_verifies(store: LocalStore) -> None:
    value, rule = "niveau\N{NO-BREAK SPACE}3", Rule(output="score", metric="mae", max=0.1, by="level")
    manifest = manifest_of(store, make_outcome(store))
    measured = next(m for m in manifest.comparison.measurements if m.metric == "mae")
    of_slice = replace(measured, slice="level", group=value)
    policy = replace(manifest.policy, rules=(rule,))
    comparison = replace(manifest.comparison, measurements=(of_slice,), defects=())
    verdict = decide(policy, comparison, precision=manifest.cell.precision.value, speedups=manifest.verdict.speedups)
    raw = replace(verdict.rules[0], sentence=verdict.rules[0].sentence.replace("\\xa0", "\N{NO-BREAK SPACE}"))
    assert raw != verdict.rules[0]
    older = {"policy": policy, "policy_digest": policy_digest(policy), "comparison": comparison}
    made = manifest.model_copy(update=older | {"verdict": replace(verdict, rules=(raw,))})
    assert find_contradictions(made) == []
    other = replace(raw, sentence=f"{raw.sentence} It is fine.")
    made = manifest.model_copy(update=older | {"verdict": replace(verdict, rules=(other,))})
    assert find_contradictions(made) != []
