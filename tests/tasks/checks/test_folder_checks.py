from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tasks.checks import folder_checks
from tasks.checks.folder_checks import check_folder
from tasks.checks.remarks import Level
from tasks.errors import InputError
from tasks.model.model_directory import read_model_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def remarks_on(folder: Path) -> list[tuple[Level, str]]:
    return [(remark.level, remark.text) for remark in check_folder(read_model_directory(folder))]


def test_sources_are_counted_and_hidden_files_are_nothing_to_say(write_model: Callable[..., Path]) -> None:
    folder = write_model()
    (folder / ".convert.log").write_text("x")
    assert remarks_on(folder) == [(Level.GOOD, "1 file that the module can read")]


def test_files_that_others_write_meanwhile_are_warned_of(write_model: Callable[..., Path]) -> None:
    folder = write_model()
    for number in range(5):
        (folder / f"train-{number}.log").write_text("x")
    (level, text) = remarks_on(folder)[1]
    assert level is Level.WARNING
    assert text.startswith("train-0.log, train-1.log, train-2.log and 2 more counts as source")


def test_weights_that_model_yaml_does_not_name_are_told(write_model: Callable[..., Path]) -> None:
    folder = write_model()
    (folder / "trained.safetensors").write_bytes(b"weights")
    (told,) = [one.text for one in check_folder(read_model_directory(folder)) if one.level is Level.WARNING]
    assert told == (
        "trained.safetensors lies here and model.yaml names no weights, so that the module keeps those that it was"
        " built with; if they are the model's, write weights: trained.safetensors"
    )


def test_the_command_s_own_log_is_told(write_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model()
    (folder / "own.txt").write_text("x")
    monkeypatch.setattr(folder_checks, "is_own_output", lambda path: path.name == "own.txt")
    assert any(level is Level.WARNING and text.startswith("own.txt is what") for level, text in remarks_on(folder))


def test_a_pipe_is_told_and_not_waited_for(write_model: Callable[..., Path]) -> None:
    folder = write_model()
    os.mkfifo(folder / "requests")
    assert remarks_on(folder)[1] == (
        Level.WARNING, "requests is a pipe, a socket or a device: the module will not find it"
    )  # fmt: skip


def test_a_link_out_of_the_directory_stops(write_model: Callable[..., Path]) -> None:
    folder = write_model()
    (folder / "secret").symlink_to(folder.parent)
    with pytest.raises(InputError, match="leaves the model directory"):
        remarks_on(folder)
