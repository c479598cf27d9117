from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.checks import policy_checks
from tasks.checks.policy_checks import check_policies
from tasks.checks.remarks import Level, Remark
from tasks.specs import Precision
from tasks.stages.independence import count_independent
from tests.tasks.tiny import make_features, put_data, put_shards, score, tiny_spec
from validation.policy import default_policy
from validation.rules import Policy, Rule

if TYPE_CHECKING:
    import pytest

    from tests.tasks.in_process import InProcess

SPEC = tiny_spec()
MAE = Policy(rules=(Rule(output="score", metric="mae", max=0.05),))
LABELLED = Policy(rules=(Rule(output="score", metric="mae_drop", max=0.1), *MAE.rules))


def remarks_on(here: InProcess, policy: Policy, samples: int, **beside: np.ndarray[Any, Any]) -> list[Remark]:
    """What is said of a policy for FP16 on so many samples in two shards, of which the first ten were seen."""
    features = make_features(samples)
    halves = (slice(samples // 2), slice(samples // 2, None))
    data = put_data(
        here.store,
        [{"features": features[half]} for half in halves],
        [{name: array[half] for name, array in beside.items()} for half in halves],
    )
    seen = put_shards(here.store, [{"score": score(features[:10])}])
    groups = count_independent(here, SPEC, data).result.groups
    return list(check_policies(here, SPEC, {Precision.FP16: policy}, data, groups, seen))


def test_enough_samples_can_pass(here: InProcess) -> None:
    (remark,) = remarks_on(here, MAE, 400)
    assert (remark.level, remark.text) == (Level.GOOD, "fp16: 400 independent samples can pass its 1 rule")


def test_too_few_samples_are_told_with_the_rule_that_they_cannot_pass(here: InProcess) -> None:
    (remark,) = remarks_on(here, MAE, 40)
    assert remark.level is Level.WARNING
    assert remark.text.startswith("fp16: even an engine that equals PyTorch does not pass: score mae")


def test_what_counts_is_groups_and_not_rows(here: InProcess) -> None:
    (remark,) = remarks_on(here, MAE, 400, group=np.arange(400) // 10)
    assert remark.level is Level.WARNING
    assert "40 independent samples (400 rows)" in remark.text


def test_a_slice_with_few_samples_is_told(here: InProcess) -> None:
    rare = np.where(np.arange(400) < 395, "often", "rarely")
    by_level = Policy(rules=(*MAE.rules, Rule(output="score", metric="mae", max=0.05, by="level")))
    remarks = remarks_on(here, by_level, 400, **{"slice.level": rare})
    assert [remark.level for remark in remarks] == [Level.WARNING]
    assert "level=rarely" in remarks[0].text


def test_rules_on_labels_are_judged_where_there_are_labels(here: InProcess) -> None:
    label = score(make_features(400))
    assert [remark.level for remark in remarks_on(here, LABELLED, 400, label=label)] == [Level.GOOD]


def test_many_rules_that_cannot_be_passed_are_one_remark_that_names_them(here: InProcess) -> None:
    (remark,) = remarks_on(here, default_policy(SPEC.output_specs(), "fp16"), 20)
    assert re.search(r"\. Nor score \w+, score \w+, score \w+ and \d more\.$", remark.text), remark.text


def test_outputs_that_are_too_large_are_not_measured(here: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_checks, "MOST_VALUES", 399)
    (remark,) = remarks_on(here, MAE, 400)
    assert (remark.level, remark.text) == (
        Level.GOOD, "fp16: 1 rule; the outputs are too large to try them here"
    )  # fmt: skip
