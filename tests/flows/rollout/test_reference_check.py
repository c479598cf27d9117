"""Live pairs against PyTorch, by the command and by the flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from flows.commands.cli import main
from flows.console import Reporter
from flows.rollout import reference_check
from flows.rollout.reference_flow import check_against_reference
from flows.session import Session, use_session
from flows.settings import Settings
from tasks.objects.folder import LocalObjects
from tasks.rollout.reference_sample import AgainstReference
from tests.tasks.canary import Canary
from tests.tasks.tiny import VERSION, compare_scores, tiny_policy
from validation.verdict import decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Canary]:
    monkeypatch.setenv("ENGINEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("flows.session.LISTENERS", ())
    monkeypatch.setattr("flows.session.STEP_LISTENERS", ())
    session = Session(Settings(home=tmp_path / "home"), Reporter())
    with use_session(session):
        yield Canary(LocalObjects(tmp_path / "home" / "registry"), session.stage_context()).stock()


@pytest.fixture
def directory(write_model: Callable[..., Path]) -> str:
    return str(write_model())


def given(monkeypatch: pytest.MonkeyPatch, noise: float, version: str = VERSION) -> None:
    """Pairs whose canary is so noisy, of a directory of this version."""
    passing, judged = (decide(tiny_policy(), compare_scores(each)) for each in (0.0001, noise))
    monkeypatch.setattr(reference_check, "version_of", lambda *_: version)
    monkeypatch.setattr(reference_check, "draw_pairs", lambda *_, **__: [])
    monkeypatch.setattr(reference_check, "compare_with_reference", lambda *_: AgainstReference(400, judged, passing))


@pytest.mark.parametrize(("noise", "code", "word"), [(0.0001, 0, "pass"), (0.3, 3, "fail")])
def test_the_command_ends_with_the_canary_s_verdict(
    shelf: Canary, directory: str, monkeypatch: pytest.MonkeyPatch, noise: float, code: int, word: str
) -> None:
    shelf.start()
    given(monkeypatch, noise)
    result = CliRunner().invoke(main, ["rollout", "reference", directory, "--target", "cpu"])
    assert (result.exit_code, f"verdict: {word}" in result.output) == (code, True), result.output
    assert f"canary {shelf.canary.manifest.engine_id} against PyTorch:" in result.output


def test_another_version_of_the_model_is_refused(
    shelf: Canary, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.start()
    given(monkeypatch, 0.0001, version="f" * 12)
    result = CliRunner().invoke(main, ["rollout", "reference", directory, "--target", "cpu"])
    assert (result.exit_code, "name the directory that it was converted from" in result.output) == (2, True)


@pytest.mark.usefixtures("shelf")
def test_without_a_rollout_there_are_no_pairs(directory: str) -> None:
    result = CliRunner().invoke(main, ["rollout", "reference", directory, "--target", "cpu"])
    assert (result.exit_code, "nothing was ever rolled out, so there are no pairs" in result.output) == (2, True)


@pytest.mark.parametrize(("noise", "completed"), [(0.0001, True), (0.3, False)])
def test_the_flow_fails_where_the_canary_does(
    shelf: Canary, directory: str, monkeypatch: pytest.MonkeyPatch, noise: float, *, completed: bool
) -> None:
    shelf.start()
    given(monkeypatch, noise)
    state: Any = check_against_reference.fn(directory, "cpu")
    assert (state.is_completed(), state.is_failed()) == (completed, not completed)
    assert "against PyTorch on 400 pairs" in state.message
