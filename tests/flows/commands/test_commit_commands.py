from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from click.testing import CliRunner

from flows.commands.cli import main
from flows.commands.commit_commands import end_politely
from flows.pushes.journal import EngineResult, Journal, Request, State
from flows.settings import read_settings
from tasks.errors import InputError, StageError
from tasks.store.record_folder import RecordFolder
from tests.flows.projects import SPEC, Project, write_project
from tests.tasks.git.repositories import Source, make_source, model_files

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[3]
SHA = "0123456789abcdef" * 2 + "01234567"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def run_json(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(main, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("ENGINEGATE_HOME", str(tmp_path / "home"))
    return Journal(RecordFolder(tmp_path / "home" / "state"))


@pytest.fixture
def source(tmp_path: Path, journal: Journal) -> Source:  # noqa: ARG001 - its home
    return make_source(tmp_path / "repository")


def request(commit: str, version: str = "1" * 12) -> Request:
    return Request(commit=commit * 40, version=version, directory="m")


def test_without_conversions_there_is_nothing_to_list(journal: Journal) -> None:
    assert run_json("runs") == (0, {"runs": [], "more": 0})
    assert run("runs")[1] == "no commit asked for a conversion yet; `enginegate convert-commit` does, for a push\n"
    assert "of nobody yet" in run("runs", "--model", "nobody")[1]
    assert journal.models() == ()


def test_conversions_are_listed_newest_first_with_engines_and_reasons(journal: Journal) -> None:
    for commit, model in (("a", "old"), ("b", "new")):
        journal.ask(model, request(commit), "main")
    engine = EngineResult(engine_id=f"new-cpu-int8@{'1' * 12}", verdict="fail", reason="mae", registered=False)
    journal.finish("new", request("b"), State.DONE, exit_code=3, engines=[engine])
    journal.finish("old", request("a"), State.FAILED, exit_code=1, reason="MLflow is \x1b[31mdown\nmore")
    found = run_json("runs")[1]["runs"]
    assert [(each["model"], each["state"], each["exit_code"], each["ref"]) for each in found] == [
        ("new", "done", 3, "main"),
        ("old", "failed", 1, "main"),
    ]
    assert found[0]["engines"] == [engine.model_dump()]
    text = run("runs")[1]
    assert "new-cpu-int8 fail" in text
    assert "down" in text
    assert "\x1b[31m" not in text
    assert [each["model"] for each in run_json("runs", "--model", "old")[1]["runs"]] == ["old"]


def test_a_run_whose_process_died_is_interrupted_and_a_waiting_one_tells_behind_which_it_waits(
    journal: Journal,
) -> None:
    with journal.asking() as asker:
        for commit in "ab":
            journal.ask("m", request(commit), asker=asker, planned=[f"m-cpu-fp32@{'1' * 12}"])
        assert run_json("runs")[1]["runs"][0]["waits"].startswith("for its turn")
        journal.start("m", request("a"))
        waiting, running = run_json("runs")[1]["runs"]
        assert (running["state"], running["waits"]) == ("running", None)
        assert (waiting["state"], waiting["waits"]) == ("waiting", f"behind the run of commit {'a' * 12}")
        assert waiting["to_make"] == running["to_make"] == [f"m-cpu-fp32@{'1' * 12}"]
        journal.note("m", request("a"), "t4 fp32 waiting: no worker on pool gpu-t4")
        text = run("runs")[1]
        assert text.count("m-cpu-fp32 to make") == 2
        assert "no worker on pool gpu-t4" in text
    for dead in run_json("runs")[1]["runs"]:
        assert (dead["state"], dead["waits"]) == ("interrupted", "its process died: send the commit again")
    done = journal.finish("m", request("a"), State.DONE, exit_code=0)
    assert done.planned
    assert [each["to_make"] for each in run_json("runs")[1]["runs"] if each["state"] == "done"] == [[]]


def test_only_the_newest_are_shown_unless_all_are_asked_for(journal: Journal) -> None:
    for number in range(23):
        journal.ask("m", request("a", f"{number:012d}"))
    shown = run_json("runs")[1]
    assert (len(shown["runs"]), shown["more"], shown["runs"][0]["version"]) == (20, 3, f"{22:012d}")
    assert "3 older ones: --all shows them" in run("runs")[1]
    assert len(run_json("runs", "--all")[1]["runs"]) == 23


def test_a_commit_without_models_is_done_and_bad_revisions_are_bad_input(source: Source) -> None:
    commit = source.commit({"README.md": "x"})
    assert run_json("convert-commit", str(source.root), "--commit", "main") == (0, {"commit": commit, "models": []})
    assert "changes no model" in run("convert-commit", str(source.root), "--commit", "main")[1]
    for arguments in (("--commit", "nowhere"), ("--commit=--upload-pack=x",), ("--commit", "main", "--from", "-x")):
        assert run("convert-commit", str(source.root), *arguments)[0] == 2


def test_a_branch_that_was_deleted_is_told_and_no_error(source: Source) -> None:
    arguments = ("convert-commit", str(source.root), "--commit", "0" * 40, "--ref", "gone")
    assert run_json(*arguments) == (0, {"commit": "0" * 40, "models": []})
    assert run(*arguments) == (0, "the branch was deleted: there is nothing to convert\n")


def test_a_broken_model_is_told_by_table_document_and_exit_code(source: Source) -> None:
    source.commit({"x/model.yaml": "name: x\n"})
    code, text = run("convert-commit", str(source.root), "--commit", "main")
    assert code == 2
    assert "failed" in text
    assert text.count("model.yaml") == len(text.splitlines()) - 2 > 0, "a line of it each, and none in the table"
    code, document = run_json("convert-commit", str(source.root), "--commit", "main")
    assert (code, [each["state"] for each in document["models"]]) == (2, ["failed"])
    assert "model.yaml" in document["models"][0]["reason"]
    assert run_json("runs")[1]["runs"][0]["model"] == "x"


def test_a_source_commit_that_is_none_is_refused(tmp_path: Path, journal: Journal) -> None:  # noqa: ARG001 - its home
    for name, content in model_files("m", name="m").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else str(content).encode())
    for commit in ("main", SHA[:12], SHA.upper(), f"{SHA}-dirty"):
        code, text = run("convert", str(tmp_path / "m"), "--source-commit", commit)
        assert code == 2
        assert "is no full id of a commit" in text


def test_sigterm_ends_the_command_as_ctrl_c_does_and_only_there() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), end_politely():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_help_says_which_exit_code_comes_first() -> None:
    assert "1, 5, 2, 3, 4, 0" in " ".join(run("convert-commit", "--help")[1].split())


def test_settings_of_commits_are_read_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings()
    assert (settings.supersede, settings.memory_limit_bytes, settings.repositories) == ("finish", None, None)
    for name, value in (("SUPERSEDE", "cancel"), ("MEMORY_LIMIT_GB", "1.5"), ("REPOSITORIES", "https://a/,file:///b")):
        monkeypatch.setenv(f"ENGINEGATE_{name}", value)
    settings = read_settings()
    assert (settings.supersede, settings.memory_limit_bytes) == ("cancel", 1_500_000_000)
    assert settings.repositories == "https://a/,file:///b"


@pytest.mark.parametrize(
    ("name", "value"),
    [("SUPERSEDE", "kill"), *(("MEMORY_LIMIT_GB", value) for value in ("0", "-1", "0.4", "nan", "inf", "much"))],
)
def test_a_setting_of_commits_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ENGINEGATE_{name}", value)
    with pytest.raises(InputError, match=f"^ENGINEGATE_{name}: "):
        read_settings()


@pytest.fixture
def project(tmp_path: Path, prefect_url: str, begin_with_store: Callable[[Path], None]) -> Project:
    """The tiny scorer, fp32 alone, in a repository; beside it, a broken model."""
    project = write_project(tmp_path / "models", prefect_url)
    begin_with_store(tmp_path / "home")
    (project.model / "model.yaml").write_text(SPEC.replace("[fp32, int8]", "[fp32]").replace("calibration:", "#"))
    environment = project.environment | {"ENGINEGATE_HOME": str(tmp_path / "home"), "GIT_CONFIG_NOSYSTEM": "1"}
    return Project(project.root, environment)


@pytest.mark.end_to_end
def test_a_commit_becomes_engines_once_and_prefect_and_mlflow_know_it_by_its_commit(
    project: Project, prefect_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(project.root)
    commit = source.commit({"broken/model.yaml": "name: broken\n"})
    code, document, text = project.run("convert-commit", str(project.root), "--commit", "main", "--ref", "main")
    models = {each["model"]: each for each in document["models"]}
    assert (code, models["broken"]["state"]) == (2, "failed"), text
    scorer = models["tiny-scorer"]
    assert (scorer["state"], scorer["exit_code"]) == ("done", 0), text
    assert [(engine["verdict"], engine["registered"]) for engine in scorer["engines"]] == [("pass", True)]
    assert project.registered() == {engine["engine_id"] for engine in scorer["engines"]}
    assert "tiny-scorer | ✓ export" in text
    assert runs_of(project, commit) == ["FINISHED", "FINISHED"]
    assert {f"commit:{commit[:12]}", "model:tiny-scorer"} <= set(prefect_tags(prefect_url))

    again = project.run("convert-commit", str(project.root), "--commit", commit)
    assert again[1] == document
    assert "export" not in again[2]
    assert runs_of(project, commit) == ["FINISHED", "FINISHED"]
    listed = project.run("runs", "--model", "tiny-scorer")[1]["runs"]
    assert [(each["commit"], each["state"], each["ref"]) for each in listed] == [(commit, "done", "main")]
    leave_artifacts(project, commit, document, monkeypatch)


def runs_of(project: Project, commit: str) -> list[str]:
    """The states of MLflow's runs of a commit."""
    client = mlflow.MlflowClient(f"sqlite:///{Path(project.environment['ENGINEGATE_HOME']) / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`enginegate.commit` = '{commit}'")
    return [each.info.status for each in found]


def prefect_tags(url: str) -> list[str]:
    from prefect.client.orchestration import PrefectClient  # noqa: PLC0415 - reads its settings when imported
    from prefect.client.schemas.sorting import FlowRunSort  # noqa: PLC0415 - as above

    async def read() -> list[str]:
        async with PrefectClient(url) as client:
            newest = await client.read_flow_runs(limit=200, offset=0, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
            return [tag for run in newest for tag in run.tags]

    return asyncio.run(read())


def leave_artifacts(project: Project, commit: str, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow of workers finds the same, leaves it in Prefect, and fails in the end for the broken model."""
    for name in ("ENGINEGATE_HOME", "ENGINEGATE_BENCHMARK_S", "PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.setenv(name, project.environment[name])
    from prefect.context import refresh_global_settings_context  # noqa: PLC0415 - reads its settings when imported

    refresh_global_settings_context()
    from prefect.artifacts import Artifact  # noqa: PLC0415 - as above

    from flows.pushes.commit_flow import convert_commit  # noqa: PLC0415 - as above

    assert convert_commit(str(project.root), "0" * 40, old=commit) == {"commit": "0" * 40, "models": []}
    with pytest.raises(StageError, match=r"^broken: model\.yaml"):
        convert_commit(str(project.root), commit, old="")
    key = f"convert-commit-{commit[:12]}"
    table, markdown = Artifact.get(f"{key}-models"), Artifact.get(key)
    assert table is not None
    assert json.loads(str(table.data)) == document["models"]
    assert markdown is not None
    assert "| `tiny-scorer` |" in str(markdown.data)
