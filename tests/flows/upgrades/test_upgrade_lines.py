from __future__ import annotations

import io
from contextlib import redirect_stdout

import pytest

from flows.console import Reporter
from flows.upgrades.upgrade_lines import engine_lines, show_upgrade
from flows.upgrades.upgrade_report import Toolchain, UpgradedEngine, UpgradeReport
from tasks.errors import ExitCode
from tasks.records import BackendIdentity
from tasks.release.changes import RuleChange, SpeedChange
from tests.tasks.tiny import latency
from validation.verdict import Outcome

OLD = Toolchain(
    backend=BackendIdentity(
        name="tensorrt",
        version="8.6.0",
        device="NVIDIA H200",
        compute_capability="9.0",
        cuda="12.4",
        driver="550.54.15",
    ),
    options={"optimization_level": "3", "sparsity": "false"},
)
NEW = Toolchain(
    backend=OLD.backend.model_copy(update={"version": "10.13.3.9", "driver": "570.86.10", "cuda": "12.8"}),
    options={"optimization_level": "5", "sparsity": "false"},
)
OLD_ID, NEW_ID = "oral-scorer-for-the-north-h200-int8@0123456789ab", "oral-scorer-for-the-north-h200-int8@ba9876543210"
COMMAND = f"enginegate promote oral-scorer-for-the-north --target h200 --to staging --engine {NEW_ID}"


def rule(metric: str, before: float | None, after: float | None, outcome: Outcome | None, **more: str) -> RuleChange:
    fields = {"name": f"score {metric}", "direction": "worse", "limit": "≤ 0.01", "slice": None, "group": None}
    return RuleChange.model_validate(
        fields
        | {"output": "score", "metric": metric, "before": before, "after": after}
        | {"outcome_before": Outcome.PASS, "outcome": outcome}
        | more
    )


def engine(**changes: object) -> UpgradedEngine:
    fields = {
        "model": "oral-scorer-for-the-north",
        "target": "h200",
        "channel": "production",
        "state": "made",
        "engine_id": OLD_ID,
        "upgraded": NEW_ID,
        "before": OLD,
        "after": NEW,
        "plan_before": f"sha256:{'1' * 64}",
        "plan_after": f"sha256:{'2' * 64}",
        "verdict": Outcome.FAIL,
        "reason": "score mae at level=6 is 0.0121, with 95 % confidence at least 0.0111 and at most 0.0131: above 0.01",
        "rules": (
            rule("mae", 0.004, 0.0121, Outcome.FAIL, name="score mae at first_language=Portuguese", slice="level"),
            rule("spearman", 0.99, 0.98, Outcome.PASS),
            rule("bias", 0.99, None, None, direction="dropped"),
        ),
        "speed": SpeedChange(
            before=latency(8, 2.0), after=latency(8, 1.6), speedup=1.25, low=1.2, high=1.3, in_turns=True
        ),
        "notes": ("PyTorch is not timed beside it: the module is not in the registry",),
        "code": ExitCode.FAIL,
    }
    return UpgradedEngine.model_validate({**fields, **changes})


def test_an_engine_is_shown_before_and_after_with_what_changed_by_rule_and_slice() -> None:
    lines = list(engine_lines(engine()))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert f"now   {OLD_ID}" in text
    assert f"here  {NEW_ID}" in text
    assert "tensorrt 8.6.0, NVIDIA H200, SM 9.0, driver 550.54.15, CUDA 12.4" in text
    assert "tensorrt 10.13.3.9, NVIDIA H200, SM 9.0, driver 570.86.10, CUDA 12.8" in text
    assert "options: optimization_level 3 → 5" in text
    assert "✕ score mae at first_language=Portuguese\n" in text
    assert next(line.split() for line in lines if "0.0121" in line) == ["0.004", "0.0121", "≤", "0.01", "worse"]
    assert [line.split() for line in lines if "bias" in line] == [
        ["score", "bias", "0.99", "-", "≤", "0.01", "dropped"]
    ]
    assert "1.25x as fast [1.20, 1.30], faster: both timed here, in turns" in text
    assert "✕ may not follow: fail, score mae at level=6" in text


def test_the_command_is_shown_where_an_engine_may_follow_and_can_be_copied() -> None:
    passed = engine(verdict=Outcome.PASS, may_follow=True, promote=COMMAND, code=ExitCode.DONE)
    out = io.StringIO()
    with redirect_stdout(out):
        show_upgrade(Reporter(), UpgradeReport(channel="production", target="h200", engines=(engine(), passed)))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "1 of 2 may follow; no channel was moved" in text
    assert text.partition("moved\n")[2].replace("\\\n", "").split() == COMMAND.split()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"state": "skipped", "verdict": None, "reason": "its manifest\nis damaged"}, "✕ its manifest"),
        ({"state": "nothing to do", "verdict": None, "reason": "it is the same"}, "it is the same"),
        ({"verdict": Outcome.INCONCLUSIVE, "reason": "too few"}, "? may not follow: inconclusive, too few"),
        ({"plan_after": f"sha256:{'1' * 64}"}, "the engine is the same, byte for byte"),
        ({"speed": None}, "may not follow"),
    ],
)
def test_every_state_is_told(changes: dict[str, object], told: str) -> None:
    assert any(told in line for line in engine_lines(engine(**changes)))


def test_what_a_manifest_says_does_not_steer_a_terminal() -> None:
    evil = OLD.model_copy(update={"backend": OLD.backend.model_copy(update={"device": "\x1b[2J"})})
    assert "\x1b" not in "".join(engine_lines(engine(before=evil, reason="\x1b[2J", notes=("\x1b[2J",))))


def test_an_engine_that_is_slower_is_marked() -> None:
    speed = SpeedChange(before=latency(8, 1.6), after=latency(8, 2.0), speedup=0.8, low=0.7, high=0.9, in_turns=True)
    lines = list(engine_lines(engine(speed=speed)))
    assert any(line.strip().startswith("? 0.80x as fast [0.70, 0.90], slower") for line in lines)
