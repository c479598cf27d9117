"""`enginegate calibration check` and `draw` as people and programs see them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner
from moto.server import ThreadedMotoServer
from pyarrow import parquet
from safetensors.numpy import save_file

from flows.commands.cli import main
from tasks.objects.location import open_objects
from tasks.release.sample_upload import SampleUpload
from tasks.serving.sampling import Sampler
from tests.flows.projects import Project, blank_figures, write_project
from tests.sets import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Arrays = dict[str, np.ndarray[Any, Any]]
INPUTS = {"features": {"dtype": "float32", "shape": ["batch", 16]}}
WHOLE = dict.fromkeys(range(1, 7), 30)
BUCKET = "traffic"
COMMANDS = ("check", "draw", "explain")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, begin_with_store: Callable[[Path], None]) -> Project:
    """A model whose export lies in the store; nobody listens at its Prefect server."""
    project = write_project(tmp_path_factory.mktemp("project"), "http://127.0.0.1:9/api")
    begin_with_store(project.home)
    return project


def make_samples(seed: int = 2, samples: int = 300) -> Arrays:
    """Samples like the project's validation data."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((samples, 16)).astype(np.float32)
    return {"features": features, "slice.level": np.arange(samples) % 6 + 1}


def write_parquet(path: Path, arrays: Arrays) -> None:
    features = pa.array(arrays["features"].tolist(), pa.list_(pa.float32()))
    parquet.write_table(pa.table({"features": features, "slice.level": arrays["slice.level"]}), path)


def write_set(folder: Path, arrays: Arrays | None = None, *, suffix: str = "npz", **fields: Any) -> Path:
    """Write a set with its manifest into `folder`."""
    arrays, path = arrays or make_samples(), folder / f"samples.{suffix}"
    folder.mkdir(parents=True)
    if suffix == "npz":
        np.savez(path, **arrays)
    elif suffix == "parquet":
        write_parquet(path, arrays)
    else:
        save_file(arrays, path)
    describe(folder, INPUTS, **fields)
    return folder


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, sort_keys=False))


def change_samples(folder: Path, change: Callable[[Arrays], None], **manifest: Any) -> None:
    """Change the samples of a set, and bring the digest in its manifest up to date."""
    arrays = make_samples()
    change(arrays)
    described = yaml.safe_load((folder / "manifest.yaml").read_text())
    np.savez(folder / "samples.npz", **arrays)  # type: ignore[arg-type]
    describe(folder, INPUTS, strata=described["strata"])
    edit_manifest(folder, **manifest)


def check(project: Project, folder: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """Check against the project's validation data, unless `options` say otherwise."""
    against = () if "--against" in options else ("--against", str(project.model / "validation.npz"))
    with blank_figures():
        return project.run("calibration", "check", str(folder), *against, *options)


def draw(project: Project, sample: Path, out: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    chosen = ("--model", str(project.model), "--by", "level", "--out", str(out))
    return project.run("calibration", "draw", str(sample), "--size", "120", *chosen, *options)


def test_a_set_like_production_passes_and_its_reference_was_run(project: Project, tmp_path: Path) -> None:
    code, document, text = check(project, write_set(tmp_path / "set"))
    assert code == 0, text
    assert document["findings"] == []
    assert document["resemblance"]["run"][0] == 300
    assert document["resemblance"]["ranges"]
    assert text.splitlines()[-1] == "✓ pass: nothing found"


def sample_traffic(folder: Path, arrays: Arrays) -> Path:
    """What a router's sampler keeps of these samples, asked for one by one with their level as a parameter."""
    fields = {"folder": str(folder), "rate": 1.0, "most_a_day": 400, "retention_days": 7, "slices": ["level"]}
    sampler = Sampler.of_route(fields, "tiny-scorer_0_0", 1)
    for row, level in enumerate(arrays["slice.level"]):
        sampler.offer({"features": arrays["features"][row : row + 1]}, {"level": int(level)})
    assert sampler.close() == 0
    return folder


def test_a_set_is_checked_against_sampled_traffic_and_drawn_from_it(project: Project, tmp_path: Path) -> None:
    traffic = sample_traffic(tmp_path / "traffic", make_samples(5, 400))
    against = ("--against", str(traffic), "--model", str(project.model))
    code, document, text = check(project, write_set(tmp_path / "set"), *against)
    assert (code, document["findings"]) == (0, []), text
    code, document, text = draw(project, traffic, tmp_path / "drawn")
    assert (code, document["samples"]) == (0, 120), text
    assert document["strata"] == {"level": {str(level): 20 for level in range(1, 7)}}


def test_traffic_that_has_moved_on_is_found(project: Project, tmp_path: Path) -> None:
    moved = make_samples(5, 400)
    moved["features"] = moved["features"] * 3 + 2
    traffic = sample_traffic(tmp_path / "traffic", moved)
    against = ("--against", str(traffic), "--model", str(project.model))
    code, document, _ = check(project, write_set(tmp_path / "set"), *against)
    assert code == 3
    assert document["findings"]


def test_what_is_found_is_told_in_a_sentence_and_ends_with_3(project: Project, tmp_path: Path) -> None:
    arrays = make_samples()
    kept = arrays["slice.level"] != 6
    write_set(tmp_path / "set", {name: array[kept] for name, array in arrays.items()}, strata={"level": WHOLE})
    with np.load(project.model / "validation.npz") as data:
        share = (data["slice.level"] == 6).mean()
    code, document, text = check(project, tmp_path / "set")
    sentence = f"stratum level=6 has 0 samples, production has {100 * share:.2g} %"
    assert code == 3
    assert [finding["sentence"] for finding in document["findings"]] == [sentence]
    assert text.splitlines()[-2:] == [f"✕ coverage: {sentence}", "✕ fail: 1 finding"]


def test_a_set_older_than_its_limit_ends_with_3(project: Project, tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    edit_manifest(tmp_path / "set", collected={"from": "2026-01-01", "to": "2026-01-02"}, max_age_days=30)
    path = tmp_path / "set" / "manifest.yaml"
    path.write_text(path.read_text().replace("'2026", "2026").replace("-01'", "-01").replace("-02'", "-02"))
    code, document, _ = check(project, tmp_path / "set")
    assert code == 3
    assert [finding["check"] for finding in document["findings"]] == ["freshness"]
    assert document["findings"][0]["sentence"].endswith("days old; manifest.yaml's max_age_days is 30")


def test_without_json_the_same_is_told_on_standard_output(project: Project, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    sample = str(project.model / "validation.npz")
    arguments = ["calibration", "check", str(folder), "--against", sample]
    result = CliRunner().invoke(main, arguments, env=project.environment)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "calibration set made: 300 samples against 300 of validation.npz" in result.stdout


def put_nan(arrays: Arrays) -> None:
    arrays["features"][7, 3] = np.nan


def make_double(arrays: Arrays) -> None:
    arrays["features"] = arrays["features"].astype(np.float64)


def make_narrow(arrays: Arrays) -> None:
    arrays["features"] = arrays["features"][:, :15]


def add_level(arrays: Arrays) -> None:
    arrays["slice.level"][:4] = 9


def keep_31(arrays: Arrays) -> None:
    for name in arrays:
        arrays[name] = arrays[name][:31]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put_nan, "samples.npz: features holds NaN or Inf in 1 samples (first: 7)"),
        (make_double, "samples.npz: features is float64, model.yaml says float32"),
        (make_narrow, "samples.npz: features has extent 15 on axis 1, model.yaml says 16"),
        (
            add_level,
            "slice.level holds '9' in 4 samples of samples.npz, which manifest.yaml does not know under strata",
        ),
    ],
)
def test_a_set_whose_samples_cannot_be_used_ends_with_2(
    project: Project, tmp_path: Path, change: Callable[[Arrays], None], words: str
) -> None:
    folder = write_set(tmp_path / "set")
    change_samples(folder, change)
    code, document, text = check(project, folder)
    assert code == 2
    assert words in document["error"]
    assert "Traceback" not in text


def test_a_set_of_31_samples_ends_with_2_and_says_how_many_are_missing(project: Project, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", make_samples(samples=32))
    files = yaml.safe_load((folder / "manifest.yaml").read_text())["files"]
    edit_manifest(folder, samples=31, files=[files[0] | {"samples": 31}])
    code, document, _ = check(project, folder)
    assert (code, document["exit_code"]) == (2, 2)
    assert document["error"] == "manifest.yaml: samples: 31, but a calibration set needs 32 or more; add 1"


def test_inputs_of_the_manifest_that_are_not_the_model_s_end_with_2(project: Project, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    edit_manifest(folder, inputs={"features": {"dtype": "float16", "shape": ["batch", 16]}})
    code, document, _ = check(project, folder)
    assert code == 2
    assert "inputs.features: float16 ['batch', 16], model.yaml says float32 ['batch', 16]" in document["error"]


def test_samples_of_the_validation_data_are_counted_and_end_with_2(project: Project, tmp_path: Path) -> None:
    arrays = make_samples()
    with np.load(project.model / "validation.npz") as data:
        arrays["features"][[5, 40, 299]] = data["features"][[1, 2, 3]]
    code, document, _ = check(project, write_set(tmp_path / "set", arrays))
    assert code == 2
    assert "3 of its 300 samples (first: 5, 40, 299" in document["error"]


def test_a_folder_without_a_manifest_ends_with_2(project: Project, tmp_path: Path) -> None:
    code, document, _ = check(project, tmp_path)
    assert code == 2
    assert "has no manifest.yaml" in document["error"]
    assert "enginegate calibration draw" in document["error"]


def test_files_of_other_digests_are_all_named_and_end_with_5(project: Project, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    np.savez(folder / "more.npz", **make_samples(seed=3))  # type: ignore[arg-type]
    np.savez(folder / "same.npz", **make_samples(seed=4))  # type: ignore[arg-type]
    describe(folder, INPUTS)
    for name in ("samples.npz", "more.npz"):
        (folder / name).write_bytes(b"swapped")
    code, document, _ = check(project, folder)
    heading, *named = document["error"].splitlines()
    assert code == 5
    assert "2 of 3 files are not those of manifest.yaml" in heading
    assert [line.partition(":")[0] for line in named] == ["more.npz", "samples.npz"]


def test_another_sample_than_the_manifest_s_may_be_named(project: Project, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", resembles="../far.npz")
    far = make_samples(seed=5)
    far["features"] *= np.float32(3)
    np.savez(tmp_path / "far.npz", **far)  # type: ignore[arg-type]
    code, document, text = project.run("calibration", "check", str(folder))
    assert (code, document["production"], document["resemblance"]["run"]) == (3, "far.npz", None)
    assert {finding["check"] for finding in document["findings"]} == {"drift"}
    assert "! no model.yaml near the sample: the reference is not run; name it with --model" in text
    code, document, text = project.run("calibration", "check", str(folder), "--model", str(project.model))
    assert (code, document["resemblance"]["run"][0]) == (3, 300)
    assert {finding["check"] for finding in document["findings"]} == {"drift", "range"}
    assert check(project, folder)[0] == 0


def test_a_set_that_names_no_sample_needs_one(project: Project, tmp_path: Path) -> None:
    code, document, _ = project.run("calibration", "check", str(write_set(tmp_path / "set")))
    assert code == 2
    assert document["error"].endswith("manifest.yaml names no sample under `resembles`; name one with --against")


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ("nowhere", "holds no data; name a file or a folder of .npz, .safetensors, .parquet"),
        ("model", "is a model directory, and no sample; name the validation data in it"),
        ("set", "set holds the set's own 300 samples, and what is compared with itself always passes"),
        ("notes.txt", "notes.txt: is no data file"),
    ],
)
def test_what_is_no_sample_of_production_ends_with_2(project: Project, tmp_path: Path, sample: str, words: str) -> None:
    folder = write_set(tmp_path / "set")
    (tmp_path / "notes.txt").write_text("no data")
    named = project.model if sample == "model" else tmp_path / sample
    code, document, text = check(project, folder, "--against", str(named), "--model", str(project.model))
    assert code == 2
    assert words in document["error"]
    assert "Traceback" not in text


def test_the_format_of_the_files_changes_nothing_that_is_found(project: Project, tmp_path: Path) -> None:
    arrays = make_samples()
    arrays["features"] *= np.float32(0.3)
    found = [
        check(project, write_set(tmp_path / suffix, arrays, suffix=suffix))
        for suffix in ("npz", "parquet", "safetensors")
    ]
    assert [code for code, _, _ in found] == [3, 3, 3]
    assert found[0][1] == found[1][1] == found[2][1]
    assert {finding["check"] for finding in found[0][1]["findings"]} == {"drift", "range"}


def test_constants_and_zeros_give_a_document_that_is_json(project: Project, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    arrays = make_samples()
    arrays["features"][:] = 0
    code, document, _ = check(project, write_set(tmp_path / "set", arrays))
    assert code == 3
    json.loads(json.dumps(document), parse_constant=refuse)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an S3 server on loopback, with a bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "ENDPOINT_URL": f"http://{host}:{port}",
        "ACCESS_KEY_ID": "key",
        "SECRET_ACCESS_KEY": "secret",
        "DEFAULT_REGION": "us-east-1",
        "EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    server.stop()


def test_a_set_in_s3_is_checked_by_its_digest(project: Project, tmp_path: Path, s3: Any) -> None:
    folder = write_set(tmp_path / "set")
    s3.upload_file(str(folder / "samples.npz"), BUCKET, "2026/samples.npz")
    (folder / "samples.npz").unlink()
    files = yaml.safe_load((folder / "manifest.yaml").read_text())["files"]
    edit_manifest(folder, files=[files[0] | {"path": f"s3://{BUCKET}/2026/samples.npz"}])
    assert check(project, folder)[0] == 0
    edit_manifest(folder, files=[files[0] | {"path": f"s3://{BUCKET}/2026/samples.npz", "sha256": "0" * 64}])
    code, document, _ = check(project, folder)
    assert code == 5
    assert f"s3://{BUCKET}/2026/samples.npz: expected {'0' * 64}, is {files[0]['sha256']}" in document["error"]


def test_traffic_in_a_bucket_is_checked_against_and_drawn_from(project: Project, tmp_path: Path, s3: Any) -> None:
    traffic = sample_traffic(tmp_path / "traffic", make_samples(seed=6))
    assert SampleUpload(traffic, "tiny-scorer/cpu", "host-1").run(open_objects(f"s3://{BUCKET}/kept")) == 1
    address = f"s3://{BUCKET}/kept/tiny-scorer"
    model = ("--model", str(project.model))
    code, document, text = check(project, write_set(tmp_path / "set"), "--against", address, *model)
    assert code == 0, text
    code, document, text = project.run(
        "calibration", "draw", address, "--size", "120", "--out", str(tmp_path / "drawn"), *model
    )
    assert (code, document["samples"]) == (0, 120), text
    assert document["source"].startswith(f"Drawn from {address}. 120 of 300 samples")
    assert "resembles" not in yaml.safe_load((tmp_path / "drawn" / "manifest.yaml").read_text())
    (key,) = (one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET, Prefix="kept/")["Contents"])
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"changed")
    code, document, _ = check(project, tmp_path / "set", "--against", address, *model)
    assert (code, document["exit_code"]) == (5, 5)
    code, document, _ = check(project, tmp_path / "set", "--against", f"s3://{BUCKET}/elsewhere", *model)
    assert code == 2
    assert "holds no samples" in document["error"]


def test_a_set_that_was_drawn_passes_and_is_drawn_the_same_again(project: Project, tmp_path: Path) -> None:
    np.savez(tmp_path / "traffic.npz", **make_samples(seed=6, samples=900))  # type: ignore[arg-type]
    code, document, text = draw(project, tmp_path / "traffic.npz", tmp_path / "Spring Exam_2")
    assert code == 0, text
    assert (document["name"], document["samples"]) == ("spring-exam_2", 120)
    assert document["strata"] == {"level": {str(level): 20 for level in range(1, 7)}}
    code, found, text = project.run(
        "calibration", "check", str(tmp_path / "Spring Exam_2"), "--model", str(project.model)
    )
    assert (code, found["production"]) == (0, "traffic.npz"), text
    again = draw(project, tmp_path / "traffic.npz", tmp_path / "again")[1]
    other = draw(project, tmp_path / "traffic.npz", tmp_path / "other", "--seed", "1")[1]
    assert again["files"] == document["files"]
    assert other["files"] != document["files"]


def test_the_set_that_a_model_names_may_be_the_one_that_is_drawn(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.model, tmp_path / "model")  # whose calibration set, ../calibration, is not there
    samples = make_samples(seed=6, samples=900)
    np.savez(tmp_path / "traffic.npz", features=samples["features"])
    arguments = ("--size", "64", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "calibration"))
    code, document, text = project.run("calibration", "draw", str(tmp_path / "traffic.npz"), *arguments)
    assert code == 0, text
    assert (document["name"], document["samples"], document["strata"]) == ("calibration", 64, {})
    assert "64 of 900 samples drawn by chance" in document["source"]


def test_a_stratum_that_the_sample_lacks_is_told_before_the_reference_is_run(project: Project, tmp_path: Path) -> None:
    np.savez(tmp_path / "traffic.npz", features=make_samples(seed=6)["features"])
    _, document, text = draw(project, tmp_path / "traffic.npz", tmp_path / "set")
    assert "has no slice.level to draw by (no slice found); add the array, or leave out --by" in document["error"]
    assert "export" not in text
    assert "scores" not in text


def test_a_draw_says_where_and_when_samples_come_from(project: Project, tmp_path: Path) -> None:
    np.savez(tmp_path / "traffic.npz", **make_samples(seed=6, samples=900))  # type: ignore[arg-type]
    told = ("--source", "The spring exam", "--collected", "2026-03-02", "2026-05-29")
    _, document, _ = draw(project, tmp_path / "traffic.npz", tmp_path / "set", *told)
    assert document["source"].startswith("The spring exam. 120 of 900 samples drawn by level with seed 0")
    assert document["collected"] == {"from": "2026-03-02", "to": "2026-05-29"}
    assert yaml.safe_load((tmp_path / "set" / "manifest.yaml").read_text())["resembles"] == "../traffic.npz"


def test_validation_samples_are_not_drawn(project: Project, tmp_path: Path) -> None:
    with np.load(project.model / "validation.npz") as data:
        held = {"features": data["features"], "slice.level": data["slice.level"]}
    traffic = make_samples(seed=6)
    mixed = {name: np.concatenate([held[name], traffic[name]]) for name in traffic}
    np.savez(tmp_path / "traffic.npz", **mixed)  # type: ignore[arg-type]
    code, document, _ = draw(project, tmp_path / "traffic.npz", tmp_path / "set")
    assert code == 0
    assert "left out: 300 of the validation data" in document["source"]
    with np.load(tmp_path / "set" / "samples-000.npz") as data:
        drawn = {sample.tobytes() for sample in data["features"]}
    assert drawn <= {sample.tobytes() for sample in traffic["features"]}
    code, document, _ = draw(project, project.model / "validation.npz", tmp_path / "none")
    assert code == 2
    assert "all 300 samples are validation data" in document["error"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("sample", "options", "words"),
    [
        ("nowhere", (), "nowhere: holds no data"),
        ("traffic.npz", ("--by", "noise"), "has no slice.noise to draw by (slice.level found)"),
        ("traffic.npz", ("--size", "400"), "size 400: 300 of 300 samples can be drawn"),
        ("traffic.npz", ("--collected", "2026-05-01", "2026-04-01"), "from 2026-05-01 is after to 2026-04-01"),
        ("traffic.npz", ("--out", "full"), "full: is there already"),
    ],
)
def test_what_cannot_be_drawn_ends_with_2_and_leaves_nothing(
    project: Project, tmp_path: Path, sample: str, options: tuple[str, ...], words: str
) -> None:
    np.savez(tmp_path / "traffic.npz", **make_samples(seed=6))  # type: ignore[arg-type]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    code, document, text = draw(project, tmp_path / sample, tmp_path / "set", *options)
    assert code == 2
    assert words in document["error"]
    assert "Traceback" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "traffic.npz"]


def test_a_draw_without_a_model_asks_for_one(project: Project, tmp_path: Path) -> None:
    np.savez(tmp_path / "traffic.npz", **make_samples(seed=6))  # type: ignore[arg-type]
    arguments = ("calibration", "draw", str(tmp_path / "traffic.npz"), "--size", "64", "--by", "level", "--out", "set")
    code, document, _ = project.run(*arguments)
    assert code == 2
    assert "name the model with --model" in document["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", ""), "'SET'"),
        (("check", "set", "--against", ""), "'--against'"),
        (("check", "set", "--model", ""), "'--model'"),
        (("draw", "x", "--size", "64", "--by", " ", "--out", "set"), "'--by'"),
        (("draw", "x", "--size", "64", "--by", "level", "--out", ""), "'--out'"),
        (("draw", "x", "--size", "64", "--by", "level", "--out", "set", "--source", "\t"), "'--source'"),
        (("draw", "x", "--size", "31", "--by", "level", "--out", "set"), "31 is not in the range x>=32"),
        (("draw", "x", "--size", "64", "--by", "level", "--out", "set", "--seed", "-1"), "'--seed'"),
        (("explain", " "), "'ENGINE_ID'"),
    ],
)
def test_a_blank_or_impossible_argument_is_a_usage_error_that_names_it(arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(main, ["calibration", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr
