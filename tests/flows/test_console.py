from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.console import Reporter, label_of
from flows.conversion.conversion_plan import ConversionPlan
from tasks.errors import InputError, StageError
from tasks.model.model_directory import ModelDirectory
from tasks.records import Cell, EngineOutcome
from tasks.specs import Precision
from tasks.store.stage_cache import StageResult
from tests.tasks.tiny import cell, make_outcome, tiny_policy, tiny_spec
from validation.policy import PerformanceRule, Policy
from validation.verdict import Outcome, Speedup, decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.store.local import LocalStore

    Capture = pytest.CaptureFixture[str]

PLAN = ConversionPlan(
    directory=ModelDirectory(Path("/m"), tiny_spec(), None, (), None, ()),
    version="0123456789ab",
    source_commit="c" * 40 + "-dirty",
    cells=(cell("fp16"), cell("int8")),
)


FASTER = PerformanceRule(metric="speedup_vs_reference", min=1.0)
SLOW = Speedup(value=0.5, low=0.4, high=0.6)


def judged_again(outcome: EngineOutcome, policy: Policy) -> EngineOutcome:
    assert outcome.compared
    verdict = decide(policy, outcome.compared.comparison, speedups={"speedup_vs_reference": SLOW})
    return outcome.model_copy(update={"outcome": verdict.outcome, "policy": policy, "verdict": verdict})


def work(result: object) -> Callable[[Callable[[int, int], None]], object]:
    def run(progress: Callable[[int, int], None]) -> object:
        progress(1, 2)
        progress(2, 2)
        return result

    return run


def test_people_s_text_goes_to_standard_error_where_standard_output_is_json_s(capsys: Capture) -> None:
    for to_stderr in (False, True):
        reporter = Reporter(to_stderr=to_stderr)
        reporter.say("said")
        reporter.step("step", work(1), str)
        reporter.error(InputError("wrong"))
        out, err = capsys.readouterr()
        assert (bool(out), bool(err)) == (not to_stderr, to_stderr)


def test_the_matrix_names_every_engine_to_make() -> None:
    assert list(PLAN.lines) == [
        "tiny, version 0123456789ab, commit cccccccccccc: 2 engines to make",
        "  tiny-cpu-fp16@0123456789ab",
        "  tiny-cpu-int8@0123456789ab",
    ]


def test_a_step_is_one_line_with_its_mark_and_seconds(capsys: Capture) -> None:
    reporter = Reporter()
    assert reporter.step("export", work("made"), lambda result: f"result {result}") == "made"
    reporter.step("build", work(StageResult(tiny_spec(), cached=True, seconds=0.0)), lambda _found: "found")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("✓ export ")
    assert "result made" in lines[0]
    assert lines[0].endswith(" s")
    assert "found (cached)" in lines[1]
    assert [(step.name, step.cached) for step in reporter.steps] == [("export", False), ("build", True)]


def test_a_failed_step_shows_the_first_line_of_its_error_and_raises_it(capsys: Capture) -> None:
    def fail(_progress: Callable[[int, int], None]) -> None:
        raise StageError("the builder crashed\n    | a long log")

    reporter = Reporter()
    with pytest.raises(StageError, match="a long log"):
        reporter.step("build fp16", fail, str)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("✕ build fp16")
    assert "the builder crashed" in line
    assert reporter.steps == []


def test_text_is_printed_as_it_is_whatever_it_looks_like(capsys: Capture) -> None:
    text = "[red]shape [batch, 4][/red] " + "x" * 400
    reporter = Reporter()
    reporter.say(text)
    reporter.error(InputError(text))
    reporter.step("s", work(None), lambda _none: text)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [text, f"error: {text}"]
    assert text in lines[2]
    assert len(lines) == 3


def test_an_engine_s_verdict_names_its_worst_rule_or_the_reason(capsys: Capture, store: LocalStore) -> None:
    reporter = Reporter()
    reporter.verdict(make_outcome(store))
    reporter.verdict(make_outcome(store, noise=0.3))
    reporter.verdict(EngineOutcome(cell=cell("int8"), outcome=Outcome.FAIL, reason="the converter crashed\nlog"))
    passed, failed, none, log = capsys.readouterr().out.splitlines()
    assert passed.startswith("✓ ")
    assert re.search(r"pass: score \w+ is \S+, with 95 % .* (?:maximum|bounds) of \S+ on 400 samples\.$", passed)
    assert failed.startswith("✕ ")
    assert re.search(r"fail: score p99_sd is \d\.\d+, .* beyond its maximum of \S+ on 400 samples\.$", failed)
    assert none.startswith("✕ ")
    assert none.endswith("fail: the converter crashed")
    assert log == "log"


def test_a_verdict_says_how_many_samples_would_decide_and_what_speed_failed(capsys: Capture, store: LocalStore) -> None:
    reporter = Reporter()
    undecided = judged_again(make_outcome(store), replace(tiny_policy(), min_samples=1000))
    slow = judged_again(make_outcome(store), replace(tiny_policy(), performance=(FASTER,)))
    reporter.verdict(undecided)
    reporter.verdict(slow)
    reporter.engines([undecided, slow])
    first, second, *table = capsys.readouterr().out.splitlines()
    assert re.match(r"\? verdict fp32 +inconclusive: .* on 400 samples, fewer than the 1,000 that decide\.", first)
    assert re.match(
        r"✕ verdict fp32 +fail: speedup_vs_reference is 0\.5, at least 0\.4 and at most 0\.6: beyond", second
    )
    text = " ".join(" ".join(table).split())
    assert re.search(r"\? inconclusive 4\.00 ms .* worst rule: score \w+ \S+ \(\S+\), about 1,000 samples would", text)
    assert re.search(r"✕ fail 4\.00 ms .* worst rule: speedup_vs_reference 0\.5 \(≥ 1\)", text)


def test_a_verdict_by_a_defect_names_it(capsys: Capture, store: LocalStore) -> None:
    outcome = make_outcome(store)
    assert outcome.verdict
    broken = replace(outcome.verdict, outcome=Outcome.FAIL, defects=("score: 3 values are NaN", "score: 1 is Inf"))
    reporter = Reporter()
    reporter.verdict(outcome.model_copy(update={"outcome": Outcome.FAIL, "verdict": broken}))
    assert capsys.readouterr().out.endswith("fail: score: 3 values are NaN (and 1 more defect)\n")


def test_an_output_without_a_rule_is_named(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("rules: [{output: score, metric: mae, max: 0.01}]")
    outputs = {name: {"kind": "score", "range": [0, 1]} for name in ("score", "traits")}
    directory = replace(PLAN.directory, spec=tiny_spec(outputs=outputs), policy_file=policy)
    lines = replace(PLAN, directory=directory).lines
    assert "! the policy has no rule for traits: measured and logged, but not judged" in lines


def test_the_last_table_has_a_row_for_each_engine_with_nothing_cut_off(capsys: Capture, store: LocalStore) -> None:
    long = Cell(model="a" * 64, target="a100-mig-1g.5gb", precision=Precision.FP16, version="0" * 12)
    passed = make_outcome(store).model_copy(update={"cell": long})
    failed = EngineOutcome(cell=cell("int8"), outcome=Outcome.FAIL, reason="the converter crashed")
    Reporter().engines([passed, failed])
    text = capsys.readouterr().out
    lines = text.splitlines()
    row = lines[lines.index(long.engine_id) + 1]
    assert passed.engine
    for word in ("✓ pass", "4.00 ms", "1.50x", passed.engine.plan.digest[:19], "yes"):
        assert word in row
    row, why = lines[lines.index("tiny-cpu-int8@0123456789ab") + 1 :]
    assert "✕ fail" in row
    assert row.rstrip().endswith("no")
    assert why == "    the converter crashed"
    assert "…" not in text


def test_the_last_table_is_80_columns_wide_however_long_its_worst_rule_is(capsys: Capture, store: LocalStore) -> None:
    outcome = make_outcome(store)
    assert outcome.verdict
    defects = ("score at slice.region=" + "north-by-north-west and " * 15 + "sea: 3 values are NaN",)
    broken = replace(outcome.verdict, outcome=Outcome.INCONCLUSIVE, defects=defects)
    Reporter().engines([outcome.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "verdict": broken})])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert defects[0].split(": ")[0] in " ".join(text.split())


def test_a_plain_table_keeps_every_cell(capsys: Capture) -> None:
    Reporter().table(["a", "b"], [["✓", "x" * 60], ["✕", "y" * 80]])
    text = capsys.readouterr().out
    assert "x" * 60 in text
    assert "y" * 80 in text


def test_nothing_is_written_but_text_where_nobody_watches(capsys: Capture, store: LocalStore) -> None:
    reporter = Reporter()
    reporter.step("export", work(1), str)
    reporter.engines([make_outcome(store)])
    assert "\x1b" not in capsys.readouterr().out


def test_a_narrow_terminal_cuts_nothing_off(
    capsys: Capture, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    outcome = make_outcome(store)
    reporter = Reporter()
    reporter.engines([outcome])
    reporter.step("export", work(1), lambda _one: "within 1.2e-07 of PyTorch at 12 shapes")
    text = capsys.readouterr().out
    assert outcome.engine
    assert outcome.engine.plan.digest[:19] in text
    assert "within 1.2e-07 of PyTorch at 12 shapes" in text
    assert "…" not in text


def test_engines_of_other_targets_are_told_apart_and_their_runners_have_lines_of_their_own(capsys: Capture) -> None:
    assert (label_of(cell("int8")), label_of(cell("int8", target="a10g"))) == ("int8", "a10g int8")
    Reporter().elsewhere(cell("int8", target="a10g"), "waiting: no worker on pool gpu-a10g since 14:02")
    assert capsys.readouterr().out.split(maxsplit=3) == [
        *("→", "a10g", "int8"),
        "waiting: no worker on pool gpu-a10g since 14:02\n",
    ]
