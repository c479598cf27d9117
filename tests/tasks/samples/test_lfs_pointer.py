from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks.errors import InputError
from tasks.model.model_directory import read_model_directory, survey_model_directory
from tasks.samples.formats import read_arrays
from tasks.samples.lfs_pointer import refuse_pointer
from tasks.samples.npz import load_arrays

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{7:064d}\nsize 1234567\n"


@pytest.mark.parametrize("read", [load_arrays, read_arrays])
def test_data_that_git_lfs_did_not_fetch_say_so(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "a.npz").write_text(POINTER)
    with pytest.raises(InputError, match=r"^a.npz: is a pointer of git LFS, .* 1,234,567 bytes .*git lfs pull"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("field", ["weights", "validation", "source"])
def test_a_pointer_anywhere_in_a_model_directory_is_named(write_model: Callable[..., Path], field: str) -> None:
    folder = write_model(weights="weights.safetensors")
    name = {"weights": "weights.safetensors", "validation": "validation.npz", "source": "vocabulary.txt"}[field]
    (folder / name).write_text(POINTER)
    with pytest.raises(InputError, match=rf"{name}: is a pointer of git LFS.*run `git lfs pull`"):
        read_model_directory(folder).source_files()
    directory, problems = survey_model_directory(folder)
    assert len(problems) == (field != "source")
    if problems:
        assert directory.source_files().keys() == {"model.py"}, "what has another use is told once"


def test_a_small_file_is_no_pointer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(POINTER[:-20])
    refuse_pointer(tmp_path / "a.txt", "a.txt")
    refuse_pointer(tmp_path / "nowhere", "nowhere")
