"""What stands beside a verdict for those who decide by it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from flows.promotion.gate_basis import basis_document, basis_of
from tasks.registry.evidence import policy_digest
from tasks.specs import Precision
from tests.tasks.tiny import compare_scores, make_outcome, manifest_of, tiny_policy
from validation.policy import Policy, Rule

if TYPE_CHECKING:
    from tasks.records import EngineManifest
    from tasks.store.local import LocalStore

LOOSE = Policy(rules=(Rule(output="score", metric="mae", max=1e9),), confidence=0.51, min_samples=1)
LOST = ("p99_abs, max 0.05", "bias, within 0.01", "p99_sd, max 0.1", "median_sd, within 0.05", "ks, max 0.05")


@pytest.fixture
def manifest(store: LocalStore) -> EngineManifest:
    return manifest_of(store, make_outcome(store))


def loosened(manifest: EngineManifest, policy: Policy = LOOSE) -> EngineManifest:
    traits = {"traits": manifest.outputs["score"]}
    fields = {"policy": policy, "policy_digest": policy_digest(policy), "policy_origin": "own"}
    return manifest.model_copy(update=fields | {"outputs": manifest.outputs | traits})


def test_a_verdict_by_the_default_policy_says_so_and_how_sure_and_on_how_many_samples(manifest: EngineManifest) -> None:
    basis = basis_of(manifest.model_copy(update={"policy_origin": "default"}))
    assert basis.lines == [
        f"- policy {manifest.policy_digest[:19]}, the default",
        "- confidence 0.95, on 400 samples (300 needed)",
    ]


def test_a_manifest_of_before_says_nothing_of_where_its_policy_came_from(manifest: EngineManifest) -> None:
    basis = basis_of(manifest.model_copy(update={"policy_origin": None}))
    assert basis.lines[0] == f"- policy {manifest.policy_digest[:19]}"


def test_all_that_a_loosened_policy_leaves_out_is_named_line_by_line_in_80_columns(manifest: EngineManifest) -> None:
    basis = basis_of(loosened(manifest), manifest, "in production now")
    assert basis.lines == [
        f"- policy {policy_digest(LOOSE)[:19]}, the model's own",
        "- confidence 0.51, on 400 samples (1 needed)",
        "? no rule judges output traits",
        "? looser than in production now: confidence 0.51, 0.95 there",
        "? looser than in production now: min_samples 1, 300 there",
        "? looser than in production now: score mae max 1e+09, 0.0125 there",
        *(f"? looser than in production now: no rule on score {lost} there" for lost in LOST),
    ]
    assert max(map(len, basis.lines)) <= 80
    assert basis_of(manifest, loosened(manifest)).looser == ()


def test_a_verdict_on_fewer_samples_than_the_one_in_use_is_named(manifest: EngineManifest) -> None:
    more = manifest.model_copy(update={"comparison": replace(compare_scores(0.0001), samples=2400)})
    assert basis_of(manifest, more).looser == ("400 samples, 2,400 there",)
    assert basis_of(more, manifest).looser == ()


def test_a_policy_under_a_floor_says_so(manifest: EngineManifest) -> None:
    basis = basis_of(manifest.model_copy(update={"policy_origin": "own", "policy_floor": "sha256:" + "0" * 64}))
    assert basis.lines[0].endswith(", the model's own, under the policy floor")
    assert len(basis.lines[0]) <= 76
    assert basis_document(basis)["floor"] == "sha256:" + "0" * 64


def test_an_output_s_name_cannot_steer_a_terminal(manifest: EngineManifest) -> None:
    odd = manifest.model_copy(update={"outputs": {"a\x1b[2J": manifest.outputs["score"]}})
    assert basis_of(odd).warnings == [r"? no rule judges output a\x1b[2J"]


def test_the_same_stands_in_json(manifest: EngineManifest) -> None:
    document = basis_document(basis_of(loosened(manifest), manifest, "in staging"))
    assert document == {
        "policy": policy_digest(LOOSE),
        "origin": "own",
        "floor": None,
        "confidence": 0.51,
        "min_samples": 1,
        "samples": 400,
        "unjudged": ("traits",),
        "beside": "in staging",
        "looser": basis_of(loosened(manifest), manifest).looser,
    }
    assert tiny_policy() == manifest.policy


def test_the_defaults_of_another_precision_are_one_line(manifest: EngineManifest) -> None:
    fine = manifest.model_copy(update={"policy_origin": "default"})
    doubled = [replace(rule, **{rule.side: 2 * rule.limit}) for rule in fine.policy.rules if rule.side == "max"]
    cell = fine.cell.model_copy(update={"precision": Precision.INT8})
    other = fine.model_copy(update={"policy": replace(fine.policy, rules=tuple(doubled)), "cell": cell})
    assert basis_of(other, fine, "in staging").looser == (
        f"the default limits of int8, those of {fine.cell.precision.value} there",
    )
