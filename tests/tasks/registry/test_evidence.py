from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tasks.records import Override
from tasks.registry.evidence import find_contradictions, find_objections
from tests.tasks.tiny import make_outcome, manifest_of

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
