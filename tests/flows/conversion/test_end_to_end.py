"""The command line on a small real model: what is cached, what is judged, and what a kill leaves behind."""

from __future__ import annotations

import base64
import getpass
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from tasks.records import TypedModel
from tasks.store.digests import digest_file, digest_json
from tasks.store.local import LocalStore
from tests.flows.projects import (
    REPOSITORY,
    RUN_LIMIT_S,
    Project,
    write_calibration,
    write_project,
)
from tests.hardship import numbers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.flows.conftest import Converted

pytestmark = pytest.mark.end_to_end


def work_done(document: dict[str, Any]) -> set[str]:
    """The cached stages that did something."""
    stages = [
        step for step in document["steps"] if step["name"].partition(" ")[0] not in {"track", "register", "candidate"}
    ]
    return {step["name"] for step in stages if not step["cached"]}


@pytest.fixture
def copy(converted: Converted, tmp_path: Path) -> Project:
    """A copy of the converted project, home included, to change."""
    source = converted.project
    shutil.copytree(source.root, tmp_path / "copy")
    environment = source.environment | {"ENGINEGATE_HOME": str(tmp_path / "copy" / "home")}
    return Project(tmp_path / "copy", environment)


@pytest.mark.hardship
def test_the_command_alone_needs_no_server_and_keeps_standard_output_for_its_document(
    copy: Project, tmp_path: Path, prefect_database: Path
) -> None:
    if not numbers().is_hard:  # its tables take a server five seconds, and the run's made them with the same code
        with (
            closing(sqlite3.connect(prefect_database)) as made,
            closing(sqlite3.connect(copy.home / "prefect.db")) as own,
        ):
            made.backup(own)
    environment = {name: value for name, value in copy.environment.items() if name != "PREFECT_API_URL"}
    alone = Project(copy.root, environment | {"HOME": str(tmp_path)})
    process = alone.start("convert", "model", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=RUN_LIMIT_S)
    assert process.returncode == 0, err
    assert work_done(json.loads(out)) == set()
    assert "Warning" not in err
    assert leftovers(alone) == []


def test_a_conversion_registers_what_passes_and_tells_each_step(
    converted: Converted,
) -> None:
    project, document, text = converted.project, converted.document, converted.text
    assert [engine["verdict"] for engine in document["engines"]] == ["pass", "pass"]
    assert project.registered() == {engine["engine_id"] for engine in document["engines"]}
    plan = text.partition("✓")[0]
    assert all(engine["engine_id"] in plan for engine in document["engines"]), "the matrix is shown before work starts"
    assert all(f"✓ {step}" in text for step in ("export", "reference", "convert int8", "build int8", "compare int8"))
    assert "user code prints" not in text
    assert "Warning" not in text
    benchmark = document["engines"][0]["benchmark"]
    assert [latency["batch"] for latency in benchmark["engine"]["latencies"]] == [1, 8, 32]
    assert len(benchmark["pytorch"]["eager_fp32"]["latencies"]) == 3


def test_verify_passes_for_every_registered_engine(converted: Converted) -> None:
    project = converted.project
    code, document, _ = project.run("verify", *project.registered())
    assert code == 0
    assert all(faults == [] for faults in document["engines"].values())


def test_converting_again_does_no_stage_s_work(converted: Converted, copy: Project) -> None:
    first = converted.document
    code, document, _ = copy.convert()
    assert code == 0
    assert work_done(first)
    assert work_done(document) == set()
    assert document["version"] == first["version"]


@pytest.mark.hardship(only=True)
def test_what_is_thrown_away_with_a_reason_is_made_again_and_the_reason_stays(copy: Project) -> None:
    code, document, text = copy.convert("--again", "the machine was noisy", "--precision", "fp32")
    assert code == 0, text
    assert work_done(document) == FP32
    (engine_id,) = (engine["engine_id"] for engine in document["engines"])
    assert f"! {engine_id} is registered and stays as it is" in text
    assert "registered before" in text, "the same bytes"
    store = LocalStore(copy.home / "store")
    for kind in ("build", "run", "measure", "benchmark"):
        kept = [store.read_record(kind, key) for key in store.list_records(kind)]
        reasons = [entry["reason"] for record in kept for entry in (record or {}).get("discarded", [])]
        assert reasons == ["the machine was noisy"], kind
    code, document, _ = copy.convert("--precision", "fp32")
    assert (code, work_done(document)) == (0, set())
    with closing(sqlite3.connect(copy.home / "mlflow.db")) as database:
        tags = database.execute("select distinct value from tags where key = 'enginegate.again'").fetchall()
    assert tags == [("the machine was noisy",)]


@pytest.mark.parametrize(("reason", "said"), [(" ", "is blank"), ("x" * 2001, "may have 2,000")])
def test_an_outcome_is_thrown_away_for_a_reason_alone(tmp_path: Path, prefect_url: str, reason: str, said: str) -> None:
    project = write_project(tmp_path / "project", prefect_url)
    result = subprocess.run(
        [sys.executable, "-m", "flows.commands.cli", "convert", str(project.model), "--again", reason],
        cwd=REPOSITORY, env=project.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = " ".join((result.stdout + result.stderr).split())
    assert result.returncode == 2
    assert said in told, told
    assert not (project.home / "store").exists()


def _new_slice_and_calibration(project: Project) -> None:
    project.edit(
        "policy.yaml", "rules:", "min_samples: 30\nrules:\n  - {output: score, metric: mae, max: 0.1, by: level}"
    )
    write_calibration(project.root, seed=3)


def _new_weight(project: Project) -> None:
    weights = load_file(project.model / "weights.safetensors")
    weights["layers.0.bias"][0] += 0.01
    save_file(weights, project.model / "weights.safetensors")


def _change_data(project: Project, name: str) -> None:
    with np.load(project.model / "validation.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays[name].flat[-1] += 0.5
    np.savez(project.model / "validation.npz", **arrays)


INT8 = {"convert int8", "build int8", "compare int8", "benchmark int8"}
FP32 = {"build fp32", "compare fp32", "benchmark fp32"}


# What else a change redoes shows in its stage's key: tests/tasks/stages, and the policy's limits below.
@pytest.mark.parametrize(
    ("change", "precisions", "redone", "kept"),
    [
        (
            _new_slice_and_calibration,
            ("fp32", "int8"),
            INT8 | {"compare fp32"},
            {"export", "reference", "build fp32", "benchmark fp32"},
        ),
        pytest.param(
            _new_weight, ("fp32",), FP32 | {"export", "reference"}, set(), marks=pytest.mark.hardship(only=True)
        ),
    ],
)
def test_a_change_redoes_what_depends_on_it_and_no_more(
    copy: Project, change: Callable[[Project], None], precisions: tuple[str, ...], redone: set[str], kept: set[str]
) -> None:
    before = copy.registered()
    change(copy)
    code, document, text = copy.convert(*(word for name in precisions for word in ("--precision", name)))
    assert code == 0, text
    done = work_done(document)
    assert redone <= done
    assert not kept & done
    assert len(copy.registered()) == len(before) + len(precisions), "a changed model is a new version with new engines"


def test_an_engine_that_fails_its_policy_ends_with_3_and_is_not_registered(copy: Project) -> None:
    copy.edit("policy.yaml", "max: 0.05", "max: 1.0e-9")
    before = copy.registered()
    code, document, text = copy.convert("--precision", "int8")
    assert code == 3
    assert [engine["verdict"] for engine in document["engines"]] == ["fail"]
    assert copy.registered() == before
    assert "✕ verdict int8" in text


@pytest.mark.hardship(only=True)
def test_what_no_converter_can_do_is_said_before_the_reference_runs(copy: Project) -> None:
    copy.edit("model.py", "32", "8")
    weights = {"layers.2.weight": np.eye(8, dtype=np.float32), "layers.2.bias": np.zeros(8, np.float32)}
    for name, array in load_file(copy.model / "weights.safetensors").items():
        if not name.startswith("layers.2"):
            weights[name] = np.ascontiguousarray(array[:8] if "0" in name else array[..., :8])
    save_file(weights, copy.model / "weights.safetensors")
    code, document, text = copy.convert()
    assert code == 3
    assert [engine["verdict"] for engine in document["engines"]] == ["pass", "fail"]
    told = text.index("so there is nothing to quantize; drop int8 from precisions")
    assert text.index("✓ export") < told < text.index("✓ reference")


@pytest.mark.hardship(only=True)
def test_an_engine_that_is_too_slow_for_its_policy_is_told_so_once_and_is_not_registered(copy: Project) -> None:
    speed = "performance:\n  - {metric: speedup_vs_reference, min: 1000, precision: int8}\n"
    before = copy.registered()
    copy.edit("policy.yaml", "rules:", speed + "rules:")
    code, document, text = copy.convert()
    assert code == 3
    assert work_done(document) == set(), "a rule of performance is judged by the benchmark that was made"
    verdicts = {engine["engine_id"].partition("@")[0]: engine for engine in document["engines"]}
    assert {name: engine["verdict"] for name, engine in verdicts.items()} == {
        "tiny-scorer-cpu-fp32": "pass",
        "tiny-scorer-cpu-int8": "fail",
    }
    (rule,) = verdicts["tiny-scorer-cpu-int8"]["performance"]
    assert rule["outcome"] == "fail"
    assert rule["low"] <= rule["value"] <= rule["high"] < 1000
    assert (text.count("✕ verdict int8"), text.count("✓ verdict int8"), text.count("verdict fp32")) == (1, 0, 1)
    (new,) = copy.registered() - before
    assert "fp32" in new
    assert copy.run("verify", new)[0] == 0


def test_a_loose_policy_under_a_floor_is_judged_by_the_floor_s_numbers_and_no_stage_works_for_it(copy: Project) -> None:
    copy.edit("policy.yaml", "max: 0.05", "max: 0.9")
    (copy.root / "floor.yaml").write_text("rules: [{metric: mae, max: 0.02, of_range: true}]")
    under = Project(copy.root, copy.environment | {"ENGINEGATE_POLICY_FLOOR": str(copy.root / "floor.yaml")})
    before = under.registered()
    code, document, text = under.convert("--precision", "fp32")
    assert code == 0
    assert work_done(document) == set()
    assert "! the policy floor holds for score mae max 0.9 → 0.02" in text
    (new,) = (one for one in under.run("engines")[1]["engines"] if one["engine_id"] not in before)
    assert {rule["metric"]: rule["max"] or rule["min"] for rule in new["policy"]["rules"]} == {
        "mae": 0.02,
        "spearman": 0.9,
    }
    assert new["policy_origin"] == "own"
    assert new["policy_floor"] is not None
    assert under.run("verify", new["engine_id"])[0] == 0


def test_int8_that_no_fp16_engine_was_made_beside_has_not_earned_its_place(copy: Project) -> None:
    speed = "performance:\n  - {metric: speedup_vs_fp16, min: 1.0, precision: int8}\n"
    copy.edit("policy.yaml", "rules:", speed + "rules:")
    code, document, _ = copy.convert("--precision", "int8")
    assert code == 4
    assert "this conversion makes no fp16 engine" in document["engines"][0]["performance"][0]["sentence"]


def test_a_policy_of_a_slice_that_the_data_lack_is_refused_before_the_export(tmp_path: Path, prefect_url: str) -> None:
    project = write_project(tmp_path / "slice", prefect_url)
    project.edit("policy.yaml", "rules:", "rules:\n  - {output: score, metric: mae, max: 0.1, by: noise}")
    code, document, _ = project.convert()
    assert code == 2
    assert document["error"] == "policy.yaml: rules[0].by: the data have no slice.noise; choose from level"
    assert not (project.home / "store" / "records" / "export").exists()


def test_a_policy_that_needs_labels_is_refused_before_the_export_where_there_are_none(
    tmp_path: Path, prefect_url: str
) -> None:
    project = write_project(tmp_path / "labels", prefect_url)
    with np.load(project.model / "validation.npz") as archive:
        np.savez(project.model / "validation.npz", features=archive["features"])
    project.edit("policy.yaml", "rules:", "rules:\n  - {output: score, metric: mae_drop, max: 0.1}")
    code, document, _ = project.convert()
    assert code == 2
    assert document["error"].startswith("policy.yaml: rules[0]: score mae_drop compares with labels, and the data have")
    assert not (project.home / "store" / "records" / "export").exists()


@pytest.mark.hardship(only=True)
def test_samples_that_repeat_count_once_and_a_conversion_says_so(tmp_path: Path, prefect_url: str) -> None:
    project = write_project(tmp_path / "repeats", prefect_url)
    with np.load(project.model / "validation.npz") as archive:
        few = {name: np.tile(archive[name][:40], (10, *[1] * (archive[name].ndim - 1))) for name in archive.files}
    np.savez(project.model / "validation.npz", **few)
    code, document, text = project.convert("--precision", "fp32")
    assert code == 4
    assert "40 in 400 samples: 360 repeat another exactly" in text
    assert "40 independent samples (400 rows)" in text
    rules = document["engines"][0]["rules"]
    assert {(rule["n"], rule["rows"], rule["outcome"]) for rule in rules} == {(40, 400, "inconclusive")}


def damage_int8(project: Project, damage: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the weights of the converted INT8 model where the next stage will find it, digests and all."""
    store = LocalStore(project.home / "store")
    (record_path,) = [
        path
        for path in (project.home / "store" / "records" / "convert").glob("*.json")
        if json.loads(path.read_text())["result"]["precision"] == "int8"
    ]
    record = json.loads(record_path.read_text())
    typed = TypedModel.model_validate(record["result"])
    with store.scratch() as folder:
        path = next(store.fetch(typed.onnx, folder / "typed").glob("*.onnx"))
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.ndim == 2 and array.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(damage(array).astype(np.float32), tensor.name))
        (folder / "damaged").mkdir()
        onnx.save(model, folder / "damaged" / path.name)
        record["result"]["onnx"] = store.put(folder / "damaged").model_dump(mode="json")
    record["digest"] = digest_json(record["result"])
    record_path.write_text(json.dumps(record))


def _flip_half(array: np.ndarray) -> np.ndarray:
    damaged = array.copy()
    damaged[: len(damaged) // 2] *= -1
    return damaged


def _fill_with_nan(array: np.ndarray) -> np.ndarray:
    return np.full_like(array, np.nan)


@pytest.mark.hardship
@pytest.mark.parametrize("damage", [_flip_half, _fill_with_nan] if numbers().is_hard else [_flip_half])
def test_int8_weights_damaged_after_conversion_fail_the_gate(
    copy: Project, damage: Callable[[np.ndarray], np.ndarray]
) -> None:
    damage_int8(copy, damage)
    shutil.rmtree(copy.home / "registry")
    code, document, text = copy.convert()
    assert code == 3, text
    verdicts = {engine["engine_id"]: engine["verdict"] for engine in document["engines"]}
    assert sorted(verdicts.values()) == ["fail", "pass"]
    assert copy.registered() == {engine_id for engine_id, verdict in verdicts.items() if verdict == "pass"}


@pytest.mark.hardship(only=True)
def test_a_damaged_artifact_is_refused_and_then_made_again(copy: Project) -> None:
    _change_data(copy, "label")  # so that compare has to read the plans again
    blobs = [path for path in (copy.home / "store" / "blobs").rglob("*") if path.is_file()]
    plan = max((path for path in blobs if b"onnx" in path.read_bytes()[:200]), key=lambda path: path.stat().st_mtime)
    plan.chmod(0o644)
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    codes = [copy.convert()[0], copy.convert()[0]]
    assert codes == [5, 0]


# That each is bad input is shown by tests of the stages (`test_export`, `test_model_directory`); here, how it reaches
# the command: from a document, and from a child process.
BAD_INPUT = [
    ("model.yaml", "precisions:", "precision:", ("model.yaml", "'precisions'")),
    ("model.yaml", "validation.npz", "../calibration/set.npz", ("leaves the model directory",)),
    ("model.py", "def build():", "raise ValueError('broken on purpose')\n\ndef build():", ("broken on purpose",)),
    ("model.py", "def build():", "import os\nos._exit(3)\n\ndef build():", ("code 3",)),
    ("model.py", "def build():", "while True: pass\n\ndef build():", ("within 8 s", "--time-limit")),
    ("model.py", "Linear(32, 2)", "Linear(32, 3)", ("layers.4.weight", "layers.4.bias")),
    ("model.py", "self, features", "self, feature", ("features", "'feature'")),
    ("model.yaml", "opt: 8, max: 32", "opt: 80, max: 32", ("dims.batch", "raise max or lower opt")),
]


@pytest.mark.hardship
@pytest.mark.parametrize(
    ("name", "before", "after", "words"), BAD_INPUT if numbers().is_hard else [BAD_INPUT[0], BAD_INPUT[2]]
)
def test_bad_input_ends_with_2_names_the_cause_and_registers_nothing(
    tmp_path: Path, prefect_url: str, name: str, before: str, after: str, words: tuple[str, ...]
) -> None:
    project = write_project(tmp_path / "bad", prefect_url)
    project.edit(name, before, after)
    code, document, text = project.convert("--time-limit", "8" if "while" in after else "120")
    assert code == 2, text
    assert all(word in document["error"] for word in words), document["error"]
    assert "Traceback" not in text
    exported = project.home / "store" / "records" / "export"
    assert not exported.exists()
    assert not (project.home / "registry" / "engines").exists()


def test_nothing_of_the_host_leaks_into_artifacts_manifests_and_mlflow(
    converted: Converted,
) -> None:
    project = converted.project
    secrets = [str(project.root), str(REPOSITORY), f"/home/{getpass.getuser()}"]
    kept = ("store/blobs", "store/records", "registry", "mlartifacts")
    files = [path for part in kept for path in (project.home / part).rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes() + b"".join(signed_documents(path))
        assert not [secret for secret in secrets if secret.encode() in content], path


def signed_documents(path: Path) -> list[bytes]:
    """What the envelopes of a manifest or a channel hold."""
    if not {"engines", "channels"} & set(path.parts) or path.suffix != ".json":
        return []
    content = json.loads(path.read_bytes())
    return [base64.b64decode(envelope["payload"]) for envelope in content.get("moves", [content])]


def leftovers(project: Project) -> list[str]:
    """Processes of this project that outlived their command, and unfinished files."""
    processes = [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline", "environ"])
        if (process.info["environ"] or {}).get("ENGINEGATE_HOME") == str(project.home)
        or any(str(project.home) in part for part in process.info["cmdline"] or [])
    ]
    scratch = [str(path) for part in ("store/scratch", "registry/.scratch") for path in (project.home / part).glob("*")]
    return processes + scratch


@pytest.mark.hardship(only=True)
def test_killed_after_a_stage_the_same_command_goes_on_where_it_was(
    tmp_path: Path, prefect_url: str, begin_with_store: Callable[[Path], None]
) -> None:
    project = write_project(tmp_path / "killed", prefect_url)
    if not numbers().is_hard:
        begin_with_store(project.home)
        project.forget("convert", "build", "measure", "benchmark")
    arguments = ("convert", "model", "--precision", "int8")
    for stage in numbers().stages:
        process = project.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"✓ {stage}"):
                break
        time.sleep(0.3)  # into the stage that follows
        process.send_signal(signal.SIGKILL)
        process.wait()
    code, document, text = project.convert("--precision", "int8")
    assert code == 0, text
    redone = work_done(document)
    assert not redone & {"export", "reference", "convert int8", "build int8", "compare int8"}
    assert project.registered() == {document["engines"][0]["engine_id"]}
    assert project.run("verify", *project.registered())[0] == 0
    deadline = time.monotonic() + 30
    while leftovers(project) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert leftovers(project) == []
    blobs = [path for path in (project.home / "store" / "blobs").rglob("*") if path.is_file()]
    assert all(digest_file(path)[0] == f"sha256:{path.parent.name}{path.name}" for path in blobs)


def test_two_at_once_make_one_conversion(
    tmp_path: Path, prefect_url: str, begin_with_store: Callable[[Path], None]
) -> None:
    project = write_project(tmp_path / "twice", prefect_url)
    begin_with_store(project.home)
    project.forget("convert", "build", "measure", "benchmark")
    command = ("convert", "model", "--precision", "fp32", "--json")
    other = project.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert other.stderr is not None
    assert any("✓ export" in line for line in other.stderr), "what it has to make comes next"
    code, document, text = project.convert("--precision", "fp32")
    out, err = other.communicate(timeout=RUN_LIMIT_S)
    assert (code, other.returncode) == (0, 0), text + err
    done = [work_done(document), work_done(json.loads(out))]
    assert not done[0] & done[1], "no stage is done twice"
    assert done[0] | done[1] == FP32 | {"convert fp32"}
    assert len(project.registered()) == 1


@pytest.mark.hardship(only=True)
@pytest.mark.parametrize(
    "example", ["essay_scorer", "oral_scorer", "intents", "detector", "line_reader", "whisper_encoder"]
)
def test_an_example_converts_on_the_cpu(tmp_path: Path, prefect_url: str, example: str) -> None:
    project = write_project(tmp_path / "project", prefect_url)
    code, document, text = project.run("convert", str(REPOSITORY / "examples" / example), "--target", "cpu")
    assert code == 0, text
    name = example.replace("_", "-")
    assert {engine["engine_id"].partition("@")[0] for engine in document["engines"]} == {
        f"{name}-cpu-fp16",
        f"{name}-cpu-int8",
    }
