from __future__ import annotations

import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.git.commit import Commit
from tasks.git.commit_models import content_at
from tasks.model.model_directory import read_model_directory
from tasks.model.toolchain import RECIPES
from tasks.model.version import content_of_directory, version_of
from tasks.specs import Precision
from tests.tasks.git.repositories import make_source, model_files, set_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tasks.git.repositories import Source

    WriteModel = Callable[..., Path]

NAMES = [
    "lib/x.py",
    "__pycache__/m.pyc",
    ".hidden",
    "vocab.json",
    "d/.x/y",
    "\u00e9 \n'.py",
    "-o",
    "x.npz",
    "data.yaml",
]
CONTENTS = [b"", b"\n", b"\r\n", b"\xff\0", b"x" * 5000, b"$Id$"]
EXTRAS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(CONTENTS), max_size=5)
LINKS = st.dictionaries(
    st.sampled_from(["l1", "l2.py", "lib/l3", "model"]),
    st.sampled_from(["model.py", ".", "lib", "../x", "l1", "nowhere", "validation.npz", "/etc"]),
    max_size=2,
)
SPECS: list[dict[str, Any]] = [
    {},
    {"precisions": ["int8"], "calibration": {"set": "../sets/small"}},
    {"precisions": ["int8"], "calibration": {"set": "sets/small"}},
    {"validation": {"data": "data"}},
    {"validation": {"data": "validation.npz", "policy": "policy.yaml"}},
    {"weights": "w.safetensors", "build": {"plugins": ["p.so"]}},
    {"build": {"onnxruntime_plugins": ["p.so"]}},
]
ALL: dict[str, str | bytes | None] = {
    "m/data/1.npz": b"1", "m/data/2.npz": b"2", "m/w.safetensors": b"w", "m/p.so": b"p",
    "m/policy.yaml": "rules: [{output: score, metric: mae, max: 0.1}]\n",
    **set_files("sets/small"), **set_files("m/sets/small", "2" * 64),
}  # fmt: skip


def version_or_error(work: Callable[[], str]) -> str:
    try:
        return work()
    except InputError as error:
        return f"error: {error}".partition("\n")[0].partition(" (")[0]


def from_disk(folder: Path) -> str:
    return version_or_error(lambda: version_of(content_of_directory(read_model_directory(folder))))


def from_git(source: Source, commit: str, directory: str) -> str:
    with closing(source.opened()) as repository:
        return version_or_error(lambda: version_of(content_at(Commit(repository, repository.tree(commit)), directory)))


@given(spec=st.sampled_from(SPECS), extras=EXTRAS, links=LINKS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_commit_has_the_version_of_its_checkout(
    tmp_path_factory: pytest.TempPathFactory, spec: dict[str, Any], extras: dict[str, bytes], links: dict[str, str]
) -> None:
    root = tmp_path_factory.mktemp("property")
    source = make_source(root / "source")
    source.write(ALL | model_files("m", **spec) | {f"m/{name}": content for name, content in extras.items()})
    for name, target in links.items():
        path = source.root / "m" / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)
    commit = source.commit()
    clone = ["git", "-c", "core.autocrlf=false", "clone", "--quiet", str(source.root), str(root / "clone")]
    subprocess.run(clone, check=True)
    disk, objects = from_disk(root / "clone" / "m"), from_git(source, commit, "m")
    # Words of an error may differ where a link leaves: on disk it leads to something, in a commit to nothing.
    assert [text.startswith("error: ") for text in (disk, objects)] in ([True, True], [False, False]), (disk, objects)
    assert disk == objects or disk.startswith("error: ")


@pytest.mark.parametrize("spec", SPECS)
def test_every_kind_of_model_has_a_version_from_git(tmp_path: Path, spec: dict[str, Any]) -> None:
    source = make_source(tmp_path / "source")
    commit = source.commit(ALL | model_files("m", **spec))
    version = from_git(source, commit, "m")
    assert len(version) == 12
    assert version == from_disk(source.root / "m")


def test_an_export_has_the_version_of_its_commit(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    commit = source.commit(ALL | model_files("m", **SPECS[1]))
    with closing(source.opened()) as repository:
        paths = Commit(repository, repository.tree(commit)).needed_paths("m")
        assert paths == ("m", "sets/small")
        repository.export(commit, paths, tmp_path / "out")
    assert from_disk(tmp_path / "out" / "m") == from_git(source, commit, "m")


def test_what_differs_between_two_contents_is_named(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    old = source.commit(ALL | model_files("m", **SPECS[1]))
    changes: dict[str, str | bytes | None] = {"m/validation.npz": b"new", "m/lib/x.py": "", "m/model.py": "#"}
    new = source.commit(model_files("m", name="b", **SPECS[1]) | changes | set_files("sets/small", "3" * 64))
    with closing(source.opened()) as repository:
        older, newer = (content_at(Commit(repository, repository.tree(commit)), "m") for commit in (old, new))
    words = ("model.yaml", "validation", "calibration set", "lib/x.py", "model.py")
    assert newer.differences(older) == words
    assert newer.differences(newer) == ()


def test_a_model_whose_conversions_changed_has_another_version_and_no_other_has(
    write_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, half = (
        content_of_directory(read_model_directory(write_model(precisions=precisions)))
        for precisions in (["fp32"], ["fp32", "fp16"])
    )
    before = version_of(plain), version_of(half)
    monkeypatch.setitem(RECIPES, Precision.FP16, 4)
    assert (version_of(plain) == before[0], version_of(half) == before[1]) == (True, False)


def test_a_library_of_custom_operations_is_in_the_version_by_its_content(write_model: WriteModel) -> None:
    folder = write_model(build={"onnxruntime_plugins": ["p.so"]})
    (folder / "p.so").write_bytes(b"one")
    first, old = from_disk(folder), content_of_directory(read_model_directory(folder))
    (folder / "p.so").write_bytes(b"two")
    assert from_disk(folder) != first
    assert content_of_directory(read_model_directory(folder)).differences(old) == ("plugins for ONNX Runtime",)


def test_a_model_without_such_a_library_has_the_version_that_it_had_before_there_were_any(
    write_model: WriteModel,
) -> None:
    content = content_of_directory(read_model_directory(write_model(build={"plugins": []})))
    assert "onnxruntime_plugins" not in content.spec.model_dump(mode="json")["build"]
    assert set(content.files) == {"weights", "policy", "validation", "plugins"}
