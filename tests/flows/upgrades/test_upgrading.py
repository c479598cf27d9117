"""`enginegate upgrade` on the real tiny scorer: what is made, what is said of it, and what stays as it was."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from flows.conversion import engine_making
from flows.upgrades import upgrading
from tasks.errors import ExitCode, RefusedError
from tasks.process.context import StageContext
from tasks.records import Cell
from tasks.registry.layout import manifest_key
from tasks.release.known_data import UNNAMED
from tasks.release.publish import publish_engine
from tasks.release.rebuilt_job import STAND_IN
from tasks.stages.benchmark import benchmark_engine
from tasks.store.local import LocalStore
from tests.flows.projects import Project, blank_figures, write_data
from tests.tasks.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.end_to_end

CHANNELS = ("candidate", "staging", "canary", "production")
PRODUCTION = ("upgrade", "--channel", "production", "--target", "cpu")
STAGES = ("build fp32", "compare fp32", "benchmark fp32", "race fp32")


def upgrade_all(project: Project, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the document's engines by model, and people's text."""
    with blank_figures():
        code, document, text = project.run(*PRODUCTION, *arguments)
    return code, {engine["model"]: engine for engine in document.get("engines", [])}, text


def upgrade(project: Project, *arguments: str) -> tuple[int, dict[str, Any], str]:
    code, engines, text = upgrade_all(project, *arguments)
    return code, engines["tiny-scorer"], text


def channels(project: Project) -> dict[str, Any]:
    return project.run("history", "tiny-scorer", "--target", "cpu")[1]["channels"]


def manifests(project: Project) -> dict[str, dict[str, Any]]:
    return {engine["engine_id"]: engine for engine in project.run("engines")[1]["engines"]}


def was_cached(text: str, stage: str) -> bool:
    (line,) = (line for line in text.splitlines() if line.startswith(f"✓ {stage} "))
    return "(cached)" in line


def another_model(project: Project) -> Shelf:
    """Put an engine of `tiny` into production beside, whose graph is none."""
    shelf = Shelf(project.home / "registry", StageContext(LocalStore(project.home / "store")))
    shelf.point("production", shelf.register("fp32"))
    return shelf


def test_an_engine_is_made_again_beside_the_one_in_production_and_no_channel_moves(
    serving: Project, install: Callable[[str], None]
) -> None:
    before, old = channels(serving), manifests(serving)
    install("99.0")
    code, engine, text = upgrade(serving)
    assert (code, engine["state"], engine["verdict"], engine["may_follow"]) == (0, "made", "pass", True), text
    assert channels(serving) == before
    now = manifests(serving)
    assert now.keys() - old.keys() == {engine["upgraded"]}
    assert all(now[engine_id]["manifest_digest"] == old[engine_id]["manifest_digest"] for engine_id in old)
    made, production = now[engine["upgraded"]], old[engine["engine_id"]]
    assert made["upgraded_from"] == engine["engine_id"]
    assert (production["backend"]["version"], made["backend"]["version"]) == (
        engine["before"]["backend"]["version"],
        "99.0",
    )
    same = ("onnx", "reference_outputs", "policy", "policy_origin", "recipe", "data", "fresh", "source_commit")
    assert {field: made.get(field) for field in same} == {field: production.get(field) for field in same}
    assert serving.run("verify", engine["upgraded"])[0] == 0


def test_the_report_says_what_changed_by_rule_and_in_speed_in_eighty_columns(
    serving: Project, install: Callable[[str], None]
) -> None:
    install("99.0")
    _, engine, text = upgrade(serving)
    report = text.partition("tiny-scorer cpu, production: made again")[2]
    assert max(map(len, report.splitlines())) <= 80
    assert {(rule["metric"], rule["limit"], rule["direction"]) for rule in engine["rules"]} == {
        ("mae", "≤ 0.05", "same"),
        ("spearman", "≥ 0.9", "same"),
    }
    assert "the engine is the same, byte for byte" in report
    assert engine["speed"]["in_turns"]
    assert engine["speed"]["low"] <= engine["speed"]["speedup"] <= engine["speed"]["high"]
    assert [each["after"]["batch"] for each in engine["speed"]["batches"]] == [1, 8, 32]
    assert "PyTorch is not timed beside it" in report
    assert STAND_IN not in engine["notes"], "this store has what the conversion tried it on"


def test_the_command_that_is_shown_moves_the_channel(serving: Project, install: Callable[[str], None]) -> None:
    install("99.0")
    _, engine, text = upgrade(serving)
    shown = text.partition("no channel was moved\n")[2].replace("\\\n", " ")
    assert shlex.split(shown) == shlex.split(engine["promote"])
    _, *arguments = shlex.split(shown)
    code, _, text = serving.run(*arguments, "--yes")
    assert code == 0, text
    assert channels(serving)["staging"]["current"] == engine["upgraded"]


def test_nothing_is_done_where_the_same_toolchain_is_here(serving: Project) -> None:
    before = manifests(serving)
    code, engine, text = upgrade(serving)
    assert (code, engine["state"], engine["upgraded"]) == (0, "nothing to do", None)
    assert "--again REASON" in text
    assert "build" not in text.partition("production:")[0]
    assert manifests(serving) == before


@pytest.mark.hardship(only=True)
def test_with_a_reason_the_same_toolchain_builds_once_more_and_the_reason_is_kept(serving: Project) -> None:
    code, engine, text = upgrade(serving, "--again", "a kernel is in doubt")
    assert (code, engine["state"]) == (0, "made"), text
    assert not any(was_cached(text, stage) for stage in STAGES)
    made = manifests(serving)[engine["upgraded"]]
    assert made["again"]["reason"] == "a kernel is in doubt"
    assert made["again"]["who"] == "ann"
    other = upgrade(serving, "--again", "still in doubt")[1]["upgraded"]
    assert other not in {engine["upgraded"], engine["engine_id"]}


def test_run_again_it_finds_what_it_made(serving: Project, install: Callable[[str], None]) -> None:
    install("99.0")
    _, first, _ = upgrade(serving)
    code, second, text = upgrade(serving)
    assert (code, second["state"], second["upgraded"]) == (0, "made before", first["upgraded"])
    assert second["rules"] == first["rules"]
    assert second["promote"] == first["promote"]
    assert "✓ build" not in text


def test_an_upgrade_that_was_killed_goes_on_from_what_is_done(
    serving: Project, install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    install("99.0")
    monkeypatch.setattr(engine_making, "benchmark_engine", killed)
    assert serving.run(*PRODUCTION)[0] == ExitCode.UNEXPECTED
    monkeypatch.setattr(engine_making, "benchmark_engine", benchmark_engine)
    code, engine, text = upgrade(serving)
    assert (code, engine["state"]) == (0, "made")
    assert [was_cached(text, stage) for stage in STAGES] == [True, True, False, False]


def test_another_host_needs_the_data_and_says_which_and_how(
    elsewhere: Project, serving: Project, install: Callable[[str], None]
) -> None:
    install("99.0")
    code, engine, text = upgrade(elsewhere)
    data = manifests(serving)[engine["engine_id"]]["data"]
    assert (code, engine["state"]) == (ExitCode.BAD_INPUT, "skipped")
    assert data["inputs"]["digest"] in engine["reason"]
    assert data["annotations"]["digest"] in engine["reason"]
    assert "--data" in engine["reason"]
    assert "✓ build" not in text


@pytest.mark.parametrize("given", ["model directory", "file"])
def test_another_host_with_the_same_registry_makes_the_engine_of_the_model_directory_or_the_data(
    elsewhere: Project, serving: Project, install: Callable[[str], None], given: str
) -> None:
    install("99.0")
    path = elsewhere.model if given == "model directory" else elsewhere.model / "validation.npz"
    code, engine, text = upgrade(elsewhere, "--data", str(path))
    assert (code, engine["state"], engine["may_follow"]) == (0, "made", True), text
    assert not any(was_cached(text, stage) for stage in STAGES)
    assert STAND_IN in engine["notes"]
    made = manifests(serving)[engine["upgraded"]]
    assert made["data"] == manifests(serving)[engine["engine_id"]]["data"]
    code, before, _ = upgrade(serving)
    assert (code, before["state"], before["upgraded"]) == (0, "made before", engine["upgraded"])


def test_other_data_than_the_engine_was_compared_on_are_refused_by_their_digest(
    elsewhere: Project, tmp_path: Path, install: Callable[[str], None]
) -> None:
    write_data(tmp_path / "other.npz", seed=5)
    install("99.0")
    code, engine, _ = upgrade(elsewhere, "--data", str(tmp_path / "other.npz"))
    assert (code, engine["state"]) == (ExitCode.BAD_INPUT, "skipped")
    assert re.search(
        r"was compared on inputs sha256:[0-9a-f]{64}, and --data .*other.npz holds sha256:", engine["reason"]
    )


@pytest.mark.hardship(only=True)
def test_the_policy_floor_of_today_holds_and_what_fails_is_kept_and_may_not_follow(
    serving: Project, tmp_path: Path, install: Callable[[str], None]
) -> None:
    (tmp_path / "floor.yaml").write_text("rules: [{metric: mae, max: 1.0e-12, of_range: true}]\n")
    install("99.0")
    before = manifests(serving)
    strict = Project(serving.root, serving.environment | {"ENGINEGATE_POLICY_FLOOR": str(tmp_path / "floor.yaml")})
    code, engine, text = upgrade(strict)
    assert (code, engine["verdict"], engine["may_follow"], engine["promote"]) == (3, "fail", False, None), text
    (mae,) = (rule for rule in engine["rules"] if rule["metric"] == "mae")
    assert (mae["limit"], mae["outcome_before"], mae["outcome"]) == ("≤ 1e-12", "pass", "fail")
    assert "✕ may not follow: fail" in text
    assert "0 of 1 may follow" in text
    assert manifests(serving) == before
    code, _, text = strict.run(
        "promote", "tiny-scorer", "--target", "cpu", "--to", "staging", "--engine", engine["upgraded"], "--yes"
    )
    assert code == ExitCode.REFUSED
    assert "verdict is fail" in text, "a person may override it: it is kept"


def test_an_engine_that_cannot_be_believed_is_named_and_the_others_go_on(
    serving: Project, install: Callable[[str], None]
) -> None:
    shelf = another_model(serving)
    engine_id = shelf.engine_at("production")
    assert engine_id is not None
    install("99.0")
    (serving.home / "registry" / manifest_key(Cell.parse(engine_id))).unlink()
    code, engines, text = upgrade_all(serving)
    assert code == ExitCode.REFUSED
    assert (engines["tiny"]["state"], engines["tiny-scorer"]["state"]) == ("skipped", "made"), text
    assert engine_id in engines["tiny"]["reason"]
    assert "1 of 2 may follow" in text


def test_a_model_without_such_a_channel_is_named_and_the_others_go_on(
    serving: Project, install: Callable[[str], None]
) -> None:
    another_model(serving)
    install("99.0")
    code, engines, text = upgrade_all(serving, "--model", "tiny-scorer", "--model", "nothing")
    assert code == ExitCode.BAD_INPUT
    assert (engines["nothing"]["state"], engines["tiny-scorer"]["state"]) == ("skipped", "made"), text
    assert "no engine of nothing for cpu is registered" in engines["nothing"]["reason"]
    assert "tiny" not in engines


def test_before_any_work_it_says_that_this_host_cannot_build_for_a_target(serving: Project) -> None:
    code, document, text = serving.run("upgrade", "--channel", "production", "--target", "h200")
    assert code == ExitCode.BAD_INPUT
    assert "run it on a runner with h200" in document["error"]
    assert "✓" not in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "say which engines"),
        (("--model", "Not A Name"), "is no name of a model"),
        (("--channel", "production", "--target", "gpu"), "is no target"),
        (("--channel", "canary", "--target", "cpu", "--build", "level=3"), "KEY one of optimization_level"),
        (("--channel", "canary", "--target", "cpu", "--build", "optimization_level=9"), "has no value '9'"),
        (("--channel", "canary", "--target", "cpu", "--again", "x" * 2001), "2,001 characters"),
    ],
)
def test_what_it_cannot_be_asked_is_told(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    project = Project(tmp_path, {"ENGINEGATE_HOME": str(tmp_path / "home")})
    code, document, _ = project.run("upgrade", *arguments)
    assert code == ExitCode.BAD_INPUT
    assert told in document["error"]


def test_a_registry_without_such_a_channel_is_told(tmp_path: Path) -> None:
    project = Project(tmp_path, {"ENGINEGATE_HOME": str(tmp_path / "home")})
    code, document, _ = project.run(*PRODUCTION)
    assert code == ExitCode.BAD_INPUT
    assert "no model's production points at an engine for cpu" in document["error"]


def test_onnx_runtime_has_no_options_of_a_builder(serving: Project) -> None:
    code, engine, _ = upgrade(serving, "--build", "optimization_level=5")
    assert (code, engine["state"]) == (ExitCode.BAD_INPUT, "skipped")
    assert "has no such options" in engine["reason"]


@pytest.mark.hardship(only=True)
def test_an_engine_of_an_older_release_needs_its_data_and_says_what_could_be_checked(
    serving: Project, install: Callable[[str], None]
) -> None:
    shelf = Shelf(serving.home / "registry", StageContext(LocalStore(serving.home / "store")))
    current = Cell.parse(channels(serving)["production"]["current"])
    older = current.model_copy(update={"version": "0" * 12})
    update = {"cell": older, "engine_id": older.engine_id, "data": None, "fresh": None}
    manifest = shelf.registry.engines.read_manifest(current).model_copy(update=update)
    publish_engine(shelf.context, shelf.registry, manifest)
    for channel in CHANNELS:
        arguments = ("tiny-scorer", "--target", "cpu", "--to", channel, "--engine", older.engine_id, "--yes")
        assert serving.run("promote", *arguments)[0] == 0
    install("99.0")
    code, engine, _ = upgrade(serving)
    assert (code, engine["state"]) == (ExitCode.BAD_INPUT, "skipped")
    assert "needs its 300 validation samples" in engine["reason"]
    code, engine, _ = upgrade(serving, "--data", str(serving.model))
    assert (code, engine["state"], engine["engine_id"]) == (0, "made", older.engine_id)
    assert UNNAMED in engine["notes"]
    assert manifests(serving)[engine["upgraded"]]["data"] is not None, "the next upgrade knows them"


def test_where_the_old_engine_cannot_be_loaded_here_its_own_times_stand_beside(
    serving: Project, install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RefusedError("built for another GPU")

    install("99.0")
    monkeypatch.setattr(upgrading, "race_engines", refuse)
    code, engine, text = upgrade(serving)
    assert (code, engine["may_follow"], engine["speed"]["in_turns"]) == (0, True, False)
    before = manifests(serving)[engine["engine_id"]]["benchmark"]["engine"]["latencies"]
    assert engine["speed"]["before"] in before
    assert "each timed where and when it was made, not in turns" in text


def test_an_int8_engine_is_made_of_the_quantized_graph_and_keeps_what_is_said_of_its_calibration_set(
    serving: Project, install: Callable[[str], None]
) -> None:
    (int8,) = (engine_id for engine_id in manifests(serving) if "-int8@" in engine_id)
    for channel in CHANNELS:
        arguments = ("tiny-scorer", "--target", "cpu", "--to", channel, "--engine", int8, "--yes")
        assert serving.run("promote", *arguments)[0] == 0
    install("99.0")
    code, engine, text = upgrade(serving)
    assert (code, engine["engine_id"], engine["may_follow"]) == (0, int8, True), text
    found = manifests(serving)
    assert found[engine["upgraded"]]["calibration"] == found[int8]["calibration"] is not None
    assert found[engine["upgraded"]]["onnx"] == found[int8]["onnx"]
