from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tasks.errors import InputError
from tasks.rollout.plan import judged_rules, read_plan, settle
from tasks.rollout_spec import RolloutPlan
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.shelf import Shelf

if TYPE_CHECKING:
    from tasks.process.context import StageContext
    from tasks.records import EngineManifest


@pytest.fixture
def canary(context: StageContext) -> EngineManifest:
    return Shelf(MemoryObjects(), context).describe("fp16")


def read(text: str) -> RolloutPlan:
    path = Path("rollout.yaml")
    path.write_text(text)
    return read_plan(path)


def test_without_a_file_the_defaults_serve() -> None:
    plan = read_plan(None)
    assert plan.steps == ("shadow", 1.0, 5.0, 25.0, 100.0)
    assert (plan.soak_time, plan.undecided, plan.newer) == (timedelta(minutes=10), "hold", "wait")
    assert plan == read("{}")


def test_a_file_says_all_of_it() -> None:
    plan = read(
        "steps: [shadow, 1, 12.5, 100]\nsoak: 2h\nmirror: 0.1\nnoise: 0\nkey: user\nslices: [language]\n"
        "rules: [{output: score, metric: mae, max: 0.02}]\nlatency: {p50: 1.5, p99: null}\nerrors: 0.01\n"
        "confidence: 0.99\nhorizon: {requests: 5000, hours: 1.5}\nundecided: rollback\n"
        "approve: {12.5: [ann, ben], 100: [ann]}\nnewer: supersede\n"
    )
    assert [plan.name(stage) for stage in range(4)] == ["shadow", "1", "12.5", "100"]
    assert [plan.weight(stage) for stage in range(4)] == [0.0, 1.0, 12.5, 100.0]
    assert [plan.approvers(stage) for stage in range(5)] == [(), (), ("ann", "ben"), ("ann",), ()]
    assert plan.latency.limits == {"p50": 1.5}
    assert RolloutPlan.model_validate(plan.model_dump(mode="json")) == plan, "as a signed step holds it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [shadow, 1, 5]", "steps: end at 5, where nothing would ever be promoted; add 100"),
        ("steps: [5, 1, 100]", "steps: do not rise; write each step once, shadow first"),
        ("steps: [1, 1, 100]", "steps: do not rise"),
        ("steps: [1, shadow, 100]", "steps: do not rise"),
        ("steps: [shadow, 200]", "steps: 200 is no step; write shadow, or a percent above 0 and up to 100"),
        ("steps: [shadw, 100]", "steps: 'shadw' is no step"),
        ("steps: [true, 100]", "steps: True is no step"),
        ("steps: []", "steps: are none; list at least one"),
        ("soak: 10", "soak: 10 is no time; write a number and s, m, h or d, like 10m"),
        ("soak: 10x", "soak: '10x' is no time"),
        ("mirror: 0", "mirror: Input should be greater than 0"),
        ("approve: {30: [ann]}", "approve: 30 is no step; there are shadow, 1, 5, 25, 100"),
        ("approve: {shadow: [ann]}", "approve: shadow is the first step, which whoever starts decides; remove it"),
        ("rules: []", "rules: there are none, so anything would pass; list a rule, or leave the key out"),
        ("rules: [{output: score, metric: mae, min: 0.1}]", "rules.0: min: of mae, lower is better; use max"),
        (
            "rules: [{output: a, metric: mae, max: 0.1}, {output: a, metric: mae, max: 0.2}]",
            "rules.1: limits mae of a again; remove one",
        ),
        ("horizon: {requests: 0}", "horizon.requests: Input should be greater than or equal to 1"),
        ("undecided: pass", "undecided: Input should be 'hold' or 'rollback' (given: 'pass')"),
        ("mirrr: 0.1", "mirrr: unknown key; did you mean 'mirror'?"),
        ("horizon: {hour: 1}", "horizon.hour: unknown key; did you mean 'hours'?"),
    ],
)
def test_a_mistake_names_file_field_and_remedy(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value).startswith(f"rollout.yaml: {message}")
    assert "\n" not in str(caught.value), "and is told once"


def test_without_rules_the_canary_s_own_policy_is_judged_less_what_needs_labels(canary: EngineManifest) -> None:
    rules = judged_rules(RolloutPlan(), canary)
    assert [rule.as_rule() for rule in rules] == list(canary.policy.rules)
    assert not any(rule.metric.endswith("_drop") for rule in rules)


def test_each_rule_is_judged_by_each_slice_too_and_one_that_is_listed_wins(canary: EngineManifest) -> None:
    plan = read(
        "slices: [language]\nrules:\n- {output: score, metric: mae, max: 0.02}\n"
        "- {output: score, metric: bias, within: 0.02}\n"
        "- {output: score, metric: mae, max: 0.05, by: language}\n- {output: score, metric: mae, max: 0.1, by: level}\n"
    )
    found = {(rule.metric, rule.by): rule.as_rule().limit for rule in judged_rules(plan, canary)}
    assert found == {
        ("mae", None): 0.02,
        ("bias", None): 0.02,
        ("mae", "language"): 0.05,
        ("bias", "language"): 0.02,
        ("mae", "level"): 0.1,
    }
    assert settle(plan, canary).slices == ("language", "level"), "hosts keep every slice that a rule asks for"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{output: skore, metric: mae, max: 0.1}", "rules[0].output: 'skore' is no output; did you mean 'score'?"),
        ("{output: score, metric: js, max: 0.1}", "rules[0].metric: js is not defined for score"),
        ("{output: score, metric: mae_drop, max: 0.1}", "rules.0.metric: mae_drop needs labels, which live traffic"),
    ],
)
def test_a_rule_that_does_not_fit_the_canary_is_refused_at_the_start(
    canary: EngineManifest, rule: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        settle(read(f"rules: [{rule}]"), canary)
    assert str(caught.value).startswith(f"rollout.yaml: {message}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("errors: 0", "no number of pairs shows that at most 0 of"),
        ("errors: 0.0002", "14,978 pairs without any are the least to show .* 10,000 are mirrored"),
        ("horizon: {requests: 20000}", "1,497 pairs without any .* horizon of 20,000 requests 1,000 are mirrored"),
        ("mirror: 0.005", "raise errors, mirror or horizon.requests"),
    ],
)
def test_a_plan_that_not_even_a_faultless_canary_could_pass_is_refused(
    canary: EngineManifest, text: str, said: str
) -> None:
    with pytest.raises(InputError, match=f"rollout.yaml: errors: {said}" if "raise" not in said else said):
        settle(read(text), canary)
    assert settle(RolloutPlan(), canary).errors == 0.002
