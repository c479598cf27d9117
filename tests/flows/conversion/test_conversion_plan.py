from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from flows.conversion.conversion_plan import plan_conversion, refuse_changes, source_commit, version_of
from tasks.errors import InputError
from tasks.model import toolchain
from tasks.model.model_directory import read_model_directory
from tasks.model.policy_floor import read_floor
from tasks.specs import Precision
from tasks.store import digests
from tasks.torch_side.module_source import module_key, store_module
from tests.sets import describe
from tests.tasks.tiny import SPEC, write_model_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flows.conversion.conversion_plan import ConversionPlan
    from tasks.model.policy_floor import OrganisationFloor
    from tasks.process.context import StageContext

FULL: dict[str, Any] = {
    "weights": "weights.safetensors",
    "targets": ["cpu", "a100-mig-1g.5gb"],
    "precisions": ["fp32", "fp16", "int8"],
    "calibration": {"set": "../calibration", "method": "max"},
    "validation": {"data": "validation.npz", "policy": "policy.yaml"},
    "outputs": {"score": {"kind": "score", "range": [0, 1]}, "other": {"kind": "tensor"}},
}
POLICY = "rules: [{output: score, metric: mae, max: 0.1}]\n"


def write(root: Path) -> Path:
    folder = write_model_folder(root / "model", **FULL)
    (folder / "policy.yaml").write_text(POLICY)
    return folder


def version(folder: Path) -> str:
    return version_of(read_model_directory(folder))


def plan(folder: Path, **options: Any) -> ConversionPlan:
    return plan_conversion(read_model_directory(folder), **options)


def edit_spec(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def swap_outputs(content: dict[str, Any]) -> None:
    content["outputs"] = dict(reversed(content["outputs"].items()))


def change_array(path: Path, **arrays: Any) -> None:
    with np.load(path) as archive:
        content = {name: archive[name] for name in archive.files}
    content["features"][0, 0] += np.float32(arrays.pop("by", 0))
    np.savez(path, **(content | arrays))


CHANGES: dict[str, Callable[[Path], object]] = {
    "one weight": lambda folder: (folder / "weights.safetensors").write_bytes(b"weightS"),
    "one sample": lambda folder: change_array(folder / "validation.npz", by=1e-3),
    "a label": lambda folder: change_array(folder / "validation.npz", label=np.zeros(240)),
    "the policy": lambda folder: (folder / "policy.yaml").write_text(POLICY.replace("0.1", "0.2")),
    "the source": lambda folder: (folder / "model.py").write_text("def build(): return None\n"),
    "a new helper": lambda folder: (folder / "layers.py").write_text(""),
    "a new data file": lambda folder: (folder / "vocabulary.json").write_text("{}"),
    "the calibration set": lambda folder: change_array(folder.parent / "calibration" / "set.npz", by=1e-3),
    "a calibration file more": lambda folder: np.savez(
        folder.parent / "calibration" / "more.npz", features=np.zeros((1, 4), np.float32)
    ),
    "the calibration method": lambda folder: edit_spec(folder, lambda c: c["calibration"].update(method="entropy")),
    "a dim": lambda folder: edit_spec(folder, lambda c: c["dims"]["batch"].update(max=17)),
    "a range": lambda folder: edit_spec(folder, lambda c: c["outputs"]["score"].update(range=[0, 2])),
    "the order of outputs": lambda folder: edit_spec(folder, swap_outputs),
    "the opset": lambda folder: edit_spec(folder, lambda c: c.update(export={"opset": 17})),
    "no weights": lambda folder: edit_spec(folder, lambda c: c.pop("weights")),
    "no policy": lambda folder: edit_spec(folder, lambda c: c["validation"].pop("policy")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_an_engine_depends_on_changes_the_version(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = write(tmp_path)
    before = version(folder)
    change(folder)
    describe(folder.parent / "calibration", SPEC["inputs"])
    assert version(folder) != before


def touch_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)


def add_rubbish(folder: Path) -> None:
    for name in (".git/config", "__pycache__/model.cpython-311.pyc", ".ipynb_checkpoints/model.py", ".DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")


NO_CHANGES: dict[str, Callable[[Path], object]] = {
    "times and modes": touch_all,
    "rubbish": add_rubbish,
    "a comment": lambda folder: (folder / "model.yaml").open("a").write("# a comment\n"),
    "the order of keys": lambda folder: edit_spec(folder, lambda c: c.update(name=c.pop("name"))),
    "a default written out": lambda folder: edit_spec(folder, lambda c: c.update(export={"opset": 20})),
    "beside the directory": lambda folder: (folder.parent / "notes.txt").write_text("x"),
}


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_nothing_else_changes_the_version(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = write(tmp_path)
    before = version(folder)
    change(folder)
    assert version(folder) == before


def test_the_version_is_the_same_at_another_place(tmp_path: Path) -> None:
    folder = write(tmp_path / "a") if (tmp_path / "a").mkdir() is None else tmp_path
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert version(folder) == version(tmp_path / "b" / "model")
    assert len(version(folder)) == 12


def test_another_release_of_a_tool_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path)
    versions = {version(folder)}
    for package in toolchain.TOOLCHAIN:
        monkeypatch.setattr(toolchain, "release_of", lambda name, package=package: f"{name} 0 {name == package}")
        versions.add(version(folder))
    assert len(versions) == 1 + len(toolchain.TOOLCHAIN)
    monkeypatch.undo()
    assert version(folder) in versions


def test_the_plan_is_the_whole_matrix_in_the_order_of_model_yaml(tmp_path: Path) -> None:
    found = plan(write(tmp_path))
    ids = [cell.engine_id for cell in found.cells]
    assert ids == [
        f"tiny-{target}-{precision}@{found.version}"
        for target in ("cpu", "a100-mig-1g.5gb")
        for precision in ("fp32", "fp16", "int8")
    ]
    assert found.precisions == (Precision.FP32, Precision.FP16, Precision.INT8)


def test_the_command_line_narrows_the_matrix(tmp_path: Path) -> None:
    folder = write(tmp_path)
    narrow = plan(folder, targets=["cpu"], precisions=["int8", "fp32", "int8"])
    assert [(cell.target, cell.precision.value) for cell in narrow.cells] == [("cpu", "fp32"), ("cpu", "int8")]
    one = plan(folder, only=narrow.cells[1].engine_id)
    assert one.cells == narrow.cells[1:]
    assert one.precisions == (Precision.INT8,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": ["t4"]}, "model.yaml: targets: has no t4, only cpu, a100-mig-1g.5gb; add it there or choose one"),
        ({"precisions": ["fp8"]}, "model.yaml: precisions: has no fp8, only fp32, fp16, int8"),
        ({"only": "tiny-cpu-fp32"}, "'tiny-cpu-fp32' is no engine id"),
        (
            {"only": "tiny-cpu-fp32@000000000000"},
            "--only tiny-cpu-fp32@000000000000: this directory makes tiny-cpu-fp32@",
        ),
        ({"only": "other-cpu-fp32@000000000000"}, "name one of these"),
    ],
)
def test_narrowing_to_what_the_model_has_not_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(write(tmp_path), **options)
    assert words in str(caught.value)


def test_only_an_engine_that_the_targets_leave_out_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    engine_id = plan(folder).cells[-1].engine_id
    with pytest.raises(InputError, match=r"--only .*: this directory makes tiny-cpu-fp32@"):
        plan(folder, targets=["cpu"], only=engine_id)


def mixed(root: Path) -> Path:
    folder = write(root)
    edit_spec(
        folder, lambda c: c.update(targets=["t4", "l4", "a100-mig-1g.5gb"], precisions=["fp16", "bf16", "int8", "fp8"])
    )
    return folder


def test_what_a_target_cannot_do_is_left_out_and_named_with_the_reason(tmp_path: Path) -> None:
    found = plan(mixed(tmp_path))
    made = [(cell.target, cell.precision.value) for cell in found.cells]
    assert made == [
        *[("t4", precision) for precision in ("fp16", "int8")],
        *[("l4", precision) for precision in ("fp16", "bf16", "int8", "fp8")],
        *[("a100-mig-1g.5gb", precision) for precision in ("fp16", "bf16", "int8")],
    ]
    slice_ = "a100-mig-1g.5gb"
    told = [line.removeprefix("! no ") for line in found.lines if line.startswith("! no ")]
    assert told == [
        "bf16 for t4: BF16 takes compute capability 8.0 or later (a10g, l4, a100, h100, h200), and t4 is older",
        "fp8 for t4: FP8 takes compute capability 8.9 or later (l4, h100, h200), and t4 is older",
        f"fp8 for {slice_}: FP8 takes compute capability 8.9 or later (l4, h100, h200), and {slice_} is older",
    ]
    assert plan(mixed(tmp_path), targets=["l4"]).left_out == ()


def test_what_a_setting_of_the_build_does_nothing_for_is_named(tmp_path: Path) -> None:
    folder = mixed(tmp_path)
    assert not [line for line in plan(folder).lines if "does nothing for" in line]
    edit_spec(folder, lambda c: c.update(targets=["cpu", "l4"], build={"refit": True, "hardware_compatible": True}))
    assert [line for line in plan(folder).lines if "does nothing for" in line] == [
        "! build.refit does nothing for cpu, whose engines are graphs that are made in seconds",
        "! build.refit does nothing for int8, fp8: other weights have other scales, which a plan does not take",
    ]
    assert [line for line in plan(folder, targets=["cpu"]).lines if "does nothing for" in line] == [
        "! build.refit does nothing for cpu, whose engines are graphs that are made in seconds",
        "! build.hardware_compatible does nothing for cpu, whose engines every host loads",
    ]
    assert not [line for line in plan(folder, targets=["l4"], precisions=["fp16"]).lines if "does nothing" in line]


def test_narrowing_to_what_a_target_cannot_do_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = mixed(tmp_path)
    with pytest.raises(InputError, match=r"^there is nothing to make: no fp8 for t4: .*; choose another --target or"):
        plan(folder, targets=["t4"], precisions=["fp8"])
    with pytest.raises(InputError, match=r"^--only tiny-t4-fp8@0{12}: FP8 takes .*; this directory makes tiny-t4-fp16"):
        plan(folder, only="tiny-t4-fp8@000000000000")


def test_precisions_that_a_model_does_not_have_are_no_part_of_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path)
    before = version(folder)
    for new in (Precision.BF16, Precision.FP8):
        monkeypatch.setitem(toolchain.RECIPES, new, 99)
    assert version(folder) == before
    edit_spec(folder, lambda content: content["precisions"].append("fp8"))
    with_it = version(folder)
    monkeypatch.setitem(toolchain.RECIPES, Precision.FP8, 100)
    assert version(folder) != with_it


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],  # noqa: S607 - whichever git there is
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a committed model directory in it; returns the latter."""
    folder = write(tmp_path)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "model")
    return folder


def test_a_committed_directory_has_its_commit(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert source_commit(repository) == commit == plan(repository).source_commit


@pytest.mark.parametrize("change", ["edited", "new", "removed", "staged"])
def test_uncommitted_changes_of_the_directory_are_dirty(repository: Path, change: str) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    if change == "removed":
        (repository / "policy.yaml").unlink()
    else:
        (repository / ("new.py" if change == "new" else "model.py")).write_text("x = 1\n")
    if change == "staged":
        git(repository, "add", ".")
    assert source_commit(repository) == f"{commit}-dirty"


def test_changes_elsewhere_in_the_repository_are_not_the_model_s(repository: Path) -> None:
    (repository.parent / "elsewhere.txt").write_text("x")
    assert source_commit(repository) == git(repository, "rev-parse", "HEAD")


def test_outside_git_without_commits_or_without_git_there_is_no_commit(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "--quiet")
    assert source_commit(empty) is None
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    shutil.rmtree(tmp_path / ".git")
    assert source_commit(repository) is None
    monkeypatch.setenv("PATH", str(empty))
    assert source_commit(repository) is None


def test_inside_a_git_hook_the_commit_is_still_that_of_the_model(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    other = write(tmp_path_factory.mktemp("other"))
    git(other, "init", "--quiet")
    git(other, "add", ".")
    git(other, "commit", "--quiet", "--message", "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert source_commit(repository) == commit


HOSTILE = {
    "fsmonitor": [("core.fsmonitor", "{program}")],
    "hooks": [("core.hooksPath", "{folder}")],
    "clean filter": [("filter.evil.clean", "{program}"), ("filter.evil.required", "true")],
    "process filter": [("filter.evil.process", "{program}")],
    "pager, editor and ssh": [
        ("core.pager", "{program}"),
        ("core.editor", "{program}"),
        ("core.sshCommand", "{program}"),
        ("diff.external", "{program}"),
    ],
}


@pytest.mark.parametrize("settings", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_repository_runs_nothing(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, settings: list[tuple[str, str]]
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    folder = tmp_path_factory.mktemp("hostile")
    program = folder / "post-index-change"
    program.write_text(f"#!/bin/sh\ntouch {folder}/ran\ncat\n")
    program.chmod(0o755)
    for name, value in settings:
        git(repository, "config", name, value.format(program=program, folder=folder))
    (repository.parent / ".git" / "info" / "attributes").write_text("* filter=evil diff=evil\n")
    source = repository / "model.py"
    source.write_text(source.read_text())
    os.utime(source, (1, 1))
    assert source_commit(repository) == commit
    source.write_text("changed = True\n")
    assert source_commit(repository) == f"{commit}-dirty"
    assert not (folder / "ran").exists()


def test_a_conversion_reads_each_file_once_for_its_digest_and_once_for_a_copy(
    tmp_path: Path, context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By all that asks for digests of the directory: two plans, the keys of two stages, the module, and the end."""
    folder = write(tmp_path)
    read: Counter[str] = Counter()
    digest_file = digests.digest_file

    def count(path: Path) -> tuple[str, int]:
        read[path.relative_to(folder).as_posix() if path.is_relative_to(folder) else "the copies"] += 1
        return digest_file(path)

    monkeypatch.setattr(digests, "digest_file", count)
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**9))
    directory = plan(folder).directory
    plan(folder)
    assert module_key(directory) == module_key(read_model_directory(folder))
    store_module(context, directory)
    version(folder)
    assert dict(read) == dict.fromkeys(["weights.safetensors", "model.py", "policy.yaml", "validation.npz"], 1)


def write_floor(path: Path, text: str = "rules: [{metric: mae, max: 0.02}]\nmin_samples: 500\n") -> OrganisationFloor:
    path.write_text(text)
    return read_floor(path)


def test_a_policy_floor_holds_for_every_precision_and_is_told_before_the_work(tmp_path: Path) -> None:
    folder, floor = write(tmp_path), write_floor(tmp_path / "floor.yaml")
    found = plan(folder, floor=floor)
    assert plan(folder).lines[-1].startswith("! the policy has no rule for other")
    changes = ("score mae max 0.1 → 0.02", "other mae max 0.02, which it lacks", "min_samples 300 → 500")
    assert found.lines[-3:] == tuple(f"! the policy floor holds for {change}" for change in changes)
    assert not any("has no rule for" in line for line in found.lines), "the floor's is one"
    for precision in found.precisions:
        policy = found.policy(precision)
        assert (policy.min_samples, {rule.output: rule.max for rule in policy.rules}) == (
            500,
            {"score": 0.02, "other": 0.02},
        )


def test_what_the_floor_makes_stricter_for_one_precision_is_told_of_that_one(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model", precisions=["fp32", "fp16"])
    floor = write_floor(tmp_path / "floor.yaml", "rules: [{metric: p99_abs, max: 0.02}]")
    assert plan(folder, floor=floor).lines[-1] == "! the policy floor holds for fp16: score p99_abs max 0.05 → 0.02"


def test_a_policy_floor_is_part_of_the_version_by_what_it_asks_for(tmp_path: Path) -> None:
    folder, floor = write(tmp_path), write_floor(tmp_path / "floor.yaml")
    same = write_floor(tmp_path / "b.yaml", "# the same\nmin_samples: 500\nrules: [{max: 0.02, metric: mae}]\n")
    other = write_floor(tmp_path / "c.yaml", "rules: [{metric: mae, max: 0.03}]\nmin_samples: 500\n")
    versions = [plan(folder, floor=one).version for one in (None, floor, same, other)]
    assert versions[0] == version(folder)
    assert versions[1] == versions[2]
    assert len(set(versions)) == 3


def test_what_changed_meanwhile_is_named_with_what_to_do(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "notes.txt").write_text("before")
    found = plan(folder)
    refuse_changes(found, "model")
    (folder / "notes.txt").write_text("after, and longer")
    (folder / "train.log").write_text("new")
    with pytest.raises(InputError, match=r"^model: notes.txt, train.log changed while .* name that begins with a dot"):
        refuse_changes(found, "model")
