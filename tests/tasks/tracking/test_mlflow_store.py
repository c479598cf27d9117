"""MlflowTracker against a real SQLite store."""

from __future__ import annotations

import getpass
import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas  # noqa: ICN001 - one use
import pytest

from tasks.errors import StageError
from tasks.tracking import artifacts, connection
from tasks.tracking.connection import open_client
from tasks.tracking.mlflow_store import MlflowTracker
from tasks.tracking.run_content import outcome_document

if TYPE_CHECKING:
    from tests.tasks.tracking.conftest import Case

REASON = "ONNX Runtime could not load /home/ann/secret-folder/model.onnx (node /encoder/MatMul)"


@dataclass(frozen=True)
class Logged:
    """One conversion, logged: an FP16 engine that passes, an INT8 engine that fails, an FP32 cell without engine."""

    uri: str
    artifacts: Path
    conversion: Any
    records: list[Any]
    runs: dict[str, str]

    @property
    def tracker(self) -> MlflowTracker:
        return MlflowTracker(self.uri, str(self.artifacts))

    @property
    def client(self) -> Any:
        return open_client(self.uri)

    def run(self, precision: str) -> Any:
        return self.client.get_run(self.runs[f"essay-scorer-cpu-{precision}@0123456789ab"])

    def files(self, run: Any) -> Path:
        return Path(run.info.artifact_uri.removeprefix("file://"))

    def all_runs(self, model: str = "essay-scorer") -> list[Any]:
        experiment = self.client.get_experiment_by_name(model)
        return list(self.client.search_runs([experiment.experiment_id]))


@pytest.fixture(scope="module")
def logged(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    folder = tmp_path_factory.mktemp("mlflow")
    records = [case.engine("fp16"), case.engine("int8", noise=0.3), case.failed_engine("fp32", REASON)]
    uri = f"sqlite:///{folder}/new/mlflow.db"
    tracker = MlflowTracker(uri, str(folder / "mlruns"))
    conversion = case.conversion()
    assert tracker.find_runs(conversion, [record.outcome for record in records]) is None
    assert not (folder / "new").exists()
    with pytest.MonkeyPatch.context() as patch:  # how figures look is tested beside those who draw them
        patch.setattr(artifacts, "_save", lambda _figure, path: path.touch())
        return Logged(uri, folder / "mlruns", conversion, records, tracker.log_conversion(conversion, records))


def test_the_parent_holds_one_finished_child_an_engine(logged: Logged) -> None:
    runs = logged.all_runs()
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [parent.info.run_name for parent in parents] == ["essay-scorer@0123456789ab"]
    children = {run.info.run_name: run for run in runs if run is not parents[0]}
    assert {name: run.info.run_id for name, run in children.items()} == logged.runs
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parents[0].info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parents[0].data.metrics == {"engines.pass": 1, "engines.fail": 2, "engines.inconclusive": 0}
    assert parents[0].data.params["dims.batch"] == "min 1, opt 8, max 32"


def test_tags_identify_an_engine(logged: Logged) -> None:
    tags = logged.run("fp16").data.tags
    assert tags["enginegate.verdict"] == "pass"
    assert tags["enginegate.engine_id"] == "essay-scorer-cpu-fp16@0123456789ab"
    assert tags["enginegate.plan_digest"] == "sha256:" + "b" * 64
    assert tags["enginegate.commit"] == tags["mlflow.source.git.commit"] == "c0ffee" + "0" * 34
    assert tags["mlflow.source.name"] == "enginegate convert"
    assert tags["enginegate.undefined_metrics"] == "0"
    assert logged.run("int8").data.tags["enginegate.verdict"] == "fail"


def test_metrics_and_parameters_line_up_between_engines(logged: Logged) -> None:
    fp16, int8 = logged.run("fp16").data, logged.run("int8").data
    assert fp16.metrics.keys() == int8.metrics.keys()
    assert fp16.params.keys() == int8.params.keys()
    assert fp16.metrics["score.mae"] < int8.metrics["score.mae"]


def test_json_files_carry_policy_verdict_and_outcome(logged: Logged) -> None:
    run = logged.run("fp16")
    files = {name: json.loads((logged.files(run) / f"{name}.json").read_text()) for name in ("policy", "verdict")}
    document = outcome_document(logged.records[0].outcome)
    assert files == {"policy": document["policy"], "verdict": document["verdict"]}
    outcome = json.loads((logged.files(run) / "outcome.json").read_text())
    assert outcome["engine"]["plan"] == document["engine"]["plan"]


def test_every_column_has_its_figures_and_every_output_its_slices(logged: Logged) -> None:
    names = {path.name for path in (logged.files(logged.run("int8")) / "figures").iterdir()}
    stems = ("score", "traits.0", "traits.1", "traits.2")
    assert names == {f"{stem}.{what}.png" for stem in stems for what in ("distribution", "agreement")} | {
        "rules.png",
        "score.error_by_level.png",
        "traits.error_by_level.png",
    }


def test_the_worst_samples_are_a_table_that_mlflow_reads(logged: Logged) -> None:
    run = logged.run("int8")
    assert {"path": "worst_samples.json", "type": "table"} in json.loads(run.data.tags["mlflow.loggedArtifacts"])
    table = pandas.read_json(logged.files(run) / "worst_samples.json", orient="split")  # as MLflow's load_table does
    assert len(table) == 50
    worst = logged.records[1].outcome.compared.comparison.worst[0]
    assert table["abs_error"][0] == pytest.approx(worst.abs_error, rel=1e-5)
    assert table["index"][0] == worst.index
    assert table["label"][0] == pytest.approx(table["slice.level"][0] / 6, rel=1e-5)


def test_the_rules_are_a_table_that_mlflow_reads(logged: Logged) -> None:
    run, verdict = logged.run("int8"), logged.records[1].outcome.verdict
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"])[0] == {"path": "rules.json", "type": "table"}
    table = pandas.read_json(logged.files(run) / "rules.json", orient="split")
    assert list(table) == [
        *("output", "metric", "slice", "group", "estimate", "low", "high", "limit", "n", "needed", "verdict"),
        "sentence",
    ]
    assert sorted(table["sentence"]) == sorted(sentence for _, sentence in verdict.sentences)
    assert table["verdict"][0] == "fail"
    mae = table[(table["output"] == "score") & (table["metric"] == "mae") & (table["group"] == 3)].iloc[0]
    (judged,) = [
        rule for rule in verdict.rules if (rule.rule.output, rule.rule.metric, rule.group) == ("score", "mae", "3")
    ]
    assert mae["high"] == pytest.approx(judged.high, rel=1e-5)
    assert (mae["slice"], mae["limit"], mae["n"]) == ("level", judged.rule.limit, judged.n)
    speed = table[table["metric"] == "speedup_vs_reference"].iloc[0]
    assert (speed["estimate"], speed["verdict"]) == (2.5, "pass")


def test_the_validation_data_is_an_input_of_every_run(logged: Logged) -> None:
    for run in logged.all_runs():
        (used,) = run.inputs.dataset_inputs
        assert used.dataset.name == "essay-scorer-validation"
        assert used.dataset.digest == "d" * 12
        assert json.loads(used.dataset.source) == {"artifact": "sha256:" + "d" * 64}
        assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "validation"}


def test_a_cell_without_engine_is_logged_with_its_reason(logged: Logged) -> None:
    run = logged.run("fp32")
    shown = "ONNX Runtime could not load …/model.onnx (node /encoder/MatMul)"
    assert (logged.files(run) / "reason.txt").read_text() == f"{shown}\n"
    assert shown in run.data.tags["mlflow.note.content"]
    assert run.data.tags["enginegate.verdict"] == "fail"
    assert run.data.metrics == {}


def test_the_parent_has_a_summary_of_all_engines(logged: Logged) -> None:
    parent = next(run for run in logged.all_runs() if "mlflow.parentRunId" not in run.data.tags)
    summary = (logged.files(parent) / "summary.md").read_text()
    rows = [line for line in summary.splitlines() if line.startswith("| essay-scorer")]
    assert [row.split(" | ")[1] for row in rows] == ["pass", "fail", "fail"]
    assert re.match(r"(score|traits) (mae|bias) at level=", rows[0].split(" | ")[2])
    assert "4.00 (batch 8) | 2.50x | 1.23 | `sha256:bbbbbbbbbbbb` |" in rows[0]
    assert "fp32@0123456789ab | fail | ONNX Runtime could not load …/model.onnx" in rows[2]
    note = parent.data.tags["mlflow.note.content"].splitlines()
    assert [line.split(":")[0].removesuffix("@0123456789ab") for line in note] == [
        "- **pass** essay-scorer-cpu-fp16",
        "- **fail** essay-scorer-cpu-int8",
        "- **fail** essay-scorer-cpu-fp32",
    ]


def test_nothing_of_the_host_is_logged(logged: Logged, case: Case) -> None:
    said = []
    for run in logged.all_runs():
        said += [*run.data.tags.values(), *run.data.params.values(), run.info.user_id]
        said += [path.read_text() for path in logged.files(run).rglob("*") if path.suffix in {".json", ".txt", ".md"}]
    text = "\n".join(said)
    for secret in (str(case.folder), str(logged.artifacts), str(Path.home()) + "/", "secret-folder", "/ann/"):
        assert secret not in text
    assert {getpass.getuser(), socket.gethostname()}.isdisjoint(said)


def test_logging_the_same_conversion_again_logs_nothing(logged: Logged, case: Case) -> None:
    before = {run.info.run_id for run in logged.all_runs()}
    assert logged.tracker.log_conversion(case.conversion(), logged.records) == logged.runs
    assert {run.info.run_id for run in logged.all_runs()} == before


def test_another_outcome_is_another_conversion(logged: Logged, case: Case) -> None:
    outcomes = [case.engine("fp16", p50_ms=5.0).outcome]
    assert logged.tracker.find_runs(logged.conversion, outcomes) is None


def test_a_conversion_killed_midway_is_logged_whole(logged: Logged, case: Case) -> None:
    conversion = case.conversion(model="killed")
    records = [case.failed_engine("fp16", "broken"), case.failed_engine("int8", "broken")]
    outcomes = [record.outcome for record in records]
    dying = logged.tracker
    dying.__dict__["client"] = client = _DyingClient(dying.client)
    with pytest.raises(KeyboardInterrupt):
        dying.log_conversion(conversion, records)
    assert sorted(run.info.status for run in logged.all_runs("killed")) == ["FINISHED", "RUNNING", "RUNNING"]
    assert logged.tracker.find_runs(conversion, outcomes) is None

    runs = logged.tracker.log_conversion(conversion, records)
    kept = logged.all_runs("killed")
    assert [run.info.status for run in kept] == ["FINISHED"] * 3
    assert not set(client.logged) & {run.info.run_id for run in kept}
    assert logged.tracker.find_runs(conversion, outcomes) == runs


class _DyingClient:
    """A client whose process is killed while it logs the files of its third run."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.logged: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def log_artifacts(self, run_id: str, folder: str) -> None:
        self.logged.append(run_id)
        if len(self.logged) == 3:
            raise KeyboardInterrupt
        self._client.log_artifacts(run_id, folder)


def test_an_experiment_that_another_process_makes_first_is_used(logged: Logged, case: Case) -> None:
    made = logged.client.create_experiment("raced")
    late = logged.tracker
    late.__dict__["client"] = _LateClient(late.client)
    late.log_conversion(case.conversion(model="raced"), [])
    assert [run.info.experiment_id for run in logged.all_runs("raced")] == [made]


class _LateClient:
    """A client that does not see the experiment yet when it looks the first two times."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_experiment_by_name(self, name: str) -> Any:
        self._looks += 1
        return None if self._looks <= 2 else self._client.get_experiment_by_name(name)


def test_two_who_make_the_store_at_once_get_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_create_sqlite_store", connection._create_sqlite_store.__wrapped__)  # noqa: SLF001 - the real one
    with ThreadPoolExecutor(2) as pool:
        clients = list(pool.map(open_client, [f"sqlite:///{tmp_path}/mlflow.db"] * 2))
    made = clients[0].create_experiment("shared")
    assert clients[1].get_experiment_by_name("shared").experiment_id == made


def test_artifacts_lie_below_the_given_folder(logged: Logged) -> None:
    assert logged.run("fp16").info.artifact_uri.startswith((logged.artifacts / "essay-scorer").as_uri())


def test_a_deleted_experiment_is_an_error_with_a_remedy(logged: Logged, case: Case) -> None:
    made = logged.client.create_experiment("deleted")
    logged.client.delete_experiment(made)
    with pytest.raises(StageError, match=f"mlflow experiments restore --experiment-id {made}"):
        logged.tracker.log_conversion(case.conversion(model="deleted"), [case.failed_engine("fp16", "broken")])


def test_an_unusable_store_is_an_error_that_names_the_address(case: Case, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    tracker = MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db", None)
    with pytest.raises(StageError, match=r"mlflow\.db: .* failed: (?s:.*)set MLFLOW_TRACKING_URI"):
        tracker.log_conversion(case.conversion(), [])


def test_an_error_of_a_server_hides_the_password(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = MlflowTracker("http://ann:pass-word@127.0.0.1:9", None)
    with pytest.raises(StageError, match=r"MLflow at http://127\.0\.0\.1:9: ") as caught:
        tracker.log_conversion(case.conversion(), [])
    assert "pass-word" not in str(caught.value)


def test_the_tracker_is_made_without_importing_mlflow_or_matplotlib() -> None:
    code = (
        "import sys; from tasks.tracking.mlflow_store import MlflowTracker; MlflowTracker('sqlite:///x.db', None);"
        "sys.exit(bool({'mlflow', 'matplotlib', 'pandas'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_logging_prints_nothing(tmp_path: Path) -> None:
    code = (
        "from tasks.tracking.interface import ConversionRecord as C; from tasks.tracking.mlflow_store import *;"
        f"MlflowTracker('sqlite:///{tmp_path}/mlflow.db', '{tmp_path}/mlruns').log_conversion(C(model='m',"
        "version='0123456789ab', source_commit=None, parameters={}, validation_digest='sha256:0',"
        "validation_samples=1, outputs={}, dims={}), [])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlruns"}
