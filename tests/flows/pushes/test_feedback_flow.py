"""New weights for a model of a branch, with a conversion that only looks at what it was given; and one that is real."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from prefect.context import refresh_global_settings_context
from safetensors.numpy import load_file, save_file

from flows.console import Reporter
from flows.conversion.conversion_report import ConversionReport, EngineReport
from flows.pushes import feedback_flow as feedback
from flows.pushes.conversion_process import CONVERT, Ended
from flows.pushes.feedback_flow import convert_weights
from flows.session import Session, use_session
from flows.settings import Settings
from tasks.errors import EnginegateError, InputError, RefusedError, StageError
from tests.flows.projects import Project, blank_figures, write_project
from tests.hardship import numbers
from tests.tasks.git.repositories import Source, git, make_source, pointer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def sha256(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def fp32_only(project: Project) -> None:
    project.edit(
        "model.yaml",
        "precisions: [fp32, int8]\ncalibration: {set: ../calibration, method: minmax}\n",
        "precisions: [fp32]\n",
    )


class Conversion:
    """Stands for the command: notes what it was given, and passes every engine."""

    def __init__(self) -> None:
        self.given: list[tuple[str, list[str]]] = []
        self.code = 0
        self.changes: dict[str, Any] = {}
        self.error = ""

    def run(self, command: Sequence[str], _folder: Path, _tell: Any, _stop: Any) -> Ended:
        root = Path(command[command.index("--source-commit") - 1])
        self.given.append((sha256(root / "weights.safetensors"), list(command)))
        plan = feedback.plan_conversion(feedback.read_model_directory(root))
        engines = tuple(EngineReport(engine_id=c.engine_id, verdict="pass", registered=True) for c in plan.cells)
        report = ConversionReport(model=plan.directory.spec.name, version=plan.version, engines=engines)
        return Ended(self.code, stopped=False, report=report.model_copy(update=self.changes), error=self.error)


@pytest.fixture
def conversion(monkeypatch: pytest.MonkeyPatch) -> Conversion:
    conversion = Conversion()
    monkeypatch.setattr(feedback, "run_child", conversion.run)
    return conversion


@pytest.fixture
def artifacts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    made: dict[str, str] = {}
    monkeypatch.setattr(feedback, "create_markdown_artifact", lambda text, key: made.update({key: text}))
    return made


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return write_project(tmp_path / "project", "http://127.0.0.1:9")


@pytest.fixture
def source(project: Project) -> Source:
    source = make_source(project.root)
    (project.root / ".gitignore").write_text("/home\n/prefect\n")
    source.commit()
    return source


@pytest.fixture(autouse=True)
def session(project: Project) -> Iterator[Session]:
    with use_session(Session(Settings(home=project.home), Reporter())) as session:
        yield session


@pytest.fixture
def weights(project: Project, tmp_path: Path) -> Path:
    """What a retraining job writes."""
    tensors = load_file(project.model / "weights.safetensors")
    tensors["layers.4.bias"][0] += np.float32(0.01)
    save_file(tensors, tmp_path / "new.safetensors")
    return tmp_path / "new.safetensors"


def call(source: Source, weights: Path | str, **options: Any) -> dict[str, Any]:
    return convert_weights.fn(str(source.root), options.pop("directory", "model"), str(weights), **options)


def test_the_model_of_the_branch_is_converted_with_the_new_weights(
    source: Source, weights: Path, conversion: Conversion, artifacts: dict[str, str], session: Session
) -> None:
    head = git(source.root, "rev-parse", "main")
    made = call(source, weights, reason="320 corrected <scores>", digest=sha256(weights))
    ((given, command),) = conversion.given
    assert given == sha256(weights)
    assert command[-3:] == ["--source-commit", head, "--json"]
    assert (made["commit"], made["weights"], made["model"]) == (head, sha256(weights), "tiny-scorer")
    assert [engine["verdict"] for engine in made["engines"]] == ["pass", "pass"]
    record = session.state.read_record("feedback", f"tiny-scorer-{made['version']}")
    assert record == made
    (artifact,) = artifacts.values()
    assert sha256(weights) in artifact
    assert "`320 corrected <scores>`" in artifact
    assert git(source.root, "status", "--porcelain") == ""


def test_other_weights_are_another_version_and_the_same_ones_are_the_same(
    source: Source, weights: Path, project: Project, conversion: Conversion, artifacts: dict[str, str]
) -> None:
    versions = [call(source, path)["version"] for path in (weights, project.model / "weights.safetensors", weights)]
    assert versions[0] == versions[2] != versions[1]
    assert len(conversion.given) == len(artifacts) + 1


def test_weights_whose_engines_are_all_held_are_not_converted_again(
    source: Source, weights: Path, conversion: Conversion, artifacts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = call(source, weights)
    monkeypatch.setattr(feedback, "known_engines", lambda _session: lambda _cell: "registered already")
    assert call(source, weights) == first
    assert len(conversion.given) == 1
    assert artifacts


def test_the_model_s_own_weights_may_be_in_a_git_lfs_far_away(
    source: Source, weights: Path, conversion: Conversion, artifacts: dict[str, str]
) -> None:
    source.commit({"model/weights.safetensors": pointer("1" * 64, 9)})
    assert call(source, weights)["weights"] == sha256(weights)
    assert len(conversion.given) == len(artifacts) == 1


def test_a_model_may_be_the_top_of_its_repository(
    project: Project, weights: Path, conversion: Conversion, artifacts: dict[str, str]
) -> None:
    fp32_only(project)
    source = make_source(project.model)
    source.commit()
    assert call(source, weights, directory=".")["weights"] == conversion.given[0][0] == sha256(weights)
    assert artifacts


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ref": "nowhere"}, "has no commit 'nowhere'"),
        ({"ref": "--output=x"}, "is no revision"),
        ({"directory": "other"}, "is no file in the commit"),
        ({"directory": "../model"}, "is no model directory of a repository"),
        ({"directory": "/model"}, "is no model directory of a repository"),
        ({"directory": "-x"}, "is no model directory of a repository"),
        ({"directory": "model/../model"}, "is no model directory of a repository"),
        ({"reason": "x" * 901}, "reason: has 901 characters"),
        ({"digest": "1" * 64}, "digest: .* is none"),
    ],
)
def test_bad_parameters_are_refused_before_any_work(
    source: Source, weights: Path, conversion: Conversion, options: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        call(source, weights, **options)
    assert conversion.given == []


def test_what_is_no_safetensors_is_refused(source: Source, tmp_path: Path, conversion: Conversion) -> None:
    import pickle  # noqa: PLC0415 - to be refused

    (tmp_path / "renamed.safetensors").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "weights.pt").write_bytes(b"")
    for weights, words in (
        (tmp_path / "renamed.safetensors", "is no safetensors file"),
        (tmp_path / "weights.pt", "is not .safetensors; a pickle"),
        (tmp_path / "none.safetensors", "is no file on this worker"),
        ("weights.safetensors", "is no file on this worker"),
        ("s3://bucket/weights.safetensors", "weights in S3 need it"),
    ):
        with pytest.raises(InputError, match=words):
            call(source, weights)
    assert conversion.given == []


def test_weights_of_another_digest_are_refused(source: Source, weights: Path, conversion: Conversion) -> None:
    with pytest.raises(RefusedError, match="should have digest"):
        call(source, weights, digest=f"sha256:{'1' * 64}")
    assert conversion.given == []


@pytest.mark.parametrize(
    "named", ["/etc/weights.safetensors", "../weights.safetensors", "../other/weights.safetensors", "weights.pt", 7]
)
def test_a_model_whose_weights_lie_elsewhere_is_refused(
    source: Source, weights: Path, project: Project, conversion: Conversion, named: object
) -> None:
    project.edit("model.yaml", "weights: weights.safetensors", f"weights: {named}")
    source.commit()
    with pytest.raises(InputError, match=r"model\.yaml: weights"):
        call(source, weights)
    assert conversion.given == []


@pytest.mark.parametrize(("code", "error"), [(1, StageError), (2, InputError), (5, RefusedError), (-9, StageError)])
def test_a_conversion_without_verdicts_is_an_error_with_its_reason(
    source: Source, weights: Path, conversion: Conversion, session: Session, code: int, error: type[EnginegateError]
) -> None:
    conversion.code, conversion.error = code, "the reason"
    with pytest.raises(error, match="tiny-scorer: the reason"):
        call(source, weights)
    assert session.store.list_records("feedback") == ()


def test_a_conversion_of_something_else_is_no_result(source: Source, weights: Path, conversion: Conversion) -> None:
    conversion.changes = {"version": "0" * 12}
    with pytest.raises(StageError, match="made version 000000000000"):
        call(source, weights)


@pytest.mark.hardship
@pytest.mark.end_to_end
def test_a_retraining_job_gets_registered_engines_of_its_weights(
    source: Source,
    weights: Path,
    project: Project,
    prefect_url: str,
    begin_with_store: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are the weights that the store's conversion had, whose stages are found done."""
    begin_with_store(project.home)
    fp32_only(project)
    retrained = weights.with_name("retrained.safetensors")
    shutil.move(project.model / "weights.safetensors", retrained)
    shutil.move(weights, project.model / "weights.safetensors")
    source.commit()
    environment = {**project.environment, "PREFECT_API_URL": prefect_url}
    for name in ("ENGINEGATE_HOME", "ENGINEGATE_BENCHMARK_S", "PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.setenv(name, environment[name])
    refresh_global_settings_context()
    if not numbers().is_hard:  # a real child also converts in tests/flows/commands/test_commit_commands.py

        def convert_here(command: Sequence[str], *_: Any) -> Ended:
            with blank_figures():
                code, document, _text = Project(project.root, environment).run(*command[len(CONVERT) - 1 : -1])
            return Ended(code, stopped=False, report=ConversionReport.model_validate(document))

        monkeypatch.setattr(feedback, "run_child", convert_here)
    made = convert_weights(str(source.root), "model", str(retrained), reason="corrected scores")
    assert made["weights"] == sha256(retrained)
    registered = Project(project.root, environment).registered()
    assert {engine["engine_id"] for engine in made["engines"] if engine["registered"]} == registered
    assert f"tiny-scorer-cpu-fp32@{made['version']}" in registered
