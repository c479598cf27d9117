from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tasks.backends.profiles import PROFILE_RULE, profiles_of
from tasks.backends.trt_plan import INDEX_FILE, PlanIndex
from tasks.errors import StageError
from tests.tasks.backends.test_trt_build import BUCKETS, make_job

if TYPE_CHECKING:
    from pathlib import Path


def describe(folder: Path, *plugins: Path) -> PlanIndex:
    job = make_job(folder, dims=BUCKETS).model_copy(update={"plugins": plugins})
    return PlanIndex.describe(job, profiles_of(job.dims), {"score": ("batch", 7)})


def test_an_index_reads_back_the_same(tmp_path: Path) -> None:
    index = describe(tmp_path)
    index.write(tmp_path / "plan")
    assert PlanIndex.read(tmp_path / "plan") == index
    assert [path.name for path in (tmp_path / "plan").iterdir()] == [INDEX_FILE]


def test_an_index_can_be_read_without_this_project(tmp_path: Path) -> None:
    describe(tmp_path).write(tmp_path / "plan")
    content = json.loads((tmp_path / "plan" / "engine.json").read_text())
    assert content["inputs"] == {"features": {"dtype": "float32", "shape": ["batch", 4], "pad": 0}}
    assert content["outputs"] == {"score": ["batch", 7]}
    assert [profile["file"] for profile in content["profiles"]] == [f"engine-batch{batch}.plan" for batch in (1, 8, 16)]
    assert content["profile_rule"] == PROFILE_RULE
    assert (content["schema_version"], content["cuda_graph"]) == (1, True)


def test_the_same_engine_has_the_same_index_wherever_it_is_built(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "libplugin.so").write_bytes(b"code")
        library = tmp_path / name / "libplugin.so"
        describe(tmp_path / name, library).write(tmp_path / name / "plan", [library])
        written.append((tmp_path / name / "plan" / INDEX_FILE).read_bytes())
    assert written[0] == written[1]
    assert str(tmp_path).encode() not in written[0]


def test_plugins_lie_beside_the_index_under_the_names_that_it_says(tmp_path: Path) -> None:
    library = tmp_path / "libplugin.so"
    library.write_bytes(b"code")
    index = describe(tmp_path, library)
    index.write(tmp_path / "plan", [library])
    assert [(tmp_path / "plan" / name).read_bytes() for name in index.plugins] == [b"code"]


@pytest.mark.parametrize(
    "content", [None, "", "{}", "[]", "{", '{"schema_version": "x"}'], ids=["missing", *map(repr, range(5))]
)
def test_a_folder_without_a_readable_index_holds_no_engine(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / INDEX_FILE).write_text(content)
    with pytest.raises(StageError, match=r"TensorRT cannot load the engine: engine.json cannot be read"):
        PlanIndex.read(tmp_path)


def test_an_index_with_a_key_of_a_later_time_is_refused(tmp_path: Path) -> None:
    index = describe(tmp_path)
    (tmp_path / INDEX_FILE).write_text(json.dumps({**index.model_dump(mode="json"), "later": 1}))
    with pytest.raises(StageError, match=r"(?s)engine.json cannot be read.*later"):
        PlanIndex.read(tmp_path)
