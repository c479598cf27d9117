"""A pipe in place of a file would be waited for: it is refused by its name before it is opened."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks.errors import InputError
from tasks.model.model_directory import read_model_directory
from tasks.model.set_manifest import data_files_in
from tasks.samples.formats import read_arrays
from tasks.samples.npz import load_arrays
from tasks.stages.gate import judge_files
from tasks.store.digests import digest_file, digest_once
from tests.tasks.tiny import write_model_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WORDS = r"pipe\.\w+: is a pipe, a socket or a device, and may never end; put a regular file there"


@pytest.fixture
def make_pipe() -> Iterator[Callable[[Path], Path]]:
    """Makes pipes whose reader, if there is one, gets nothing and an end: no test hangs on it."""
    writers: dict[Path, threading.Thread] = {}

    def make(path: Path) -> Path:
        os.mkfifo(path)
        writers[path] = threading.Thread(target=lambda: path.open("wb").close())
        writers[path].start()
        return path

    yield make
    for path, writer in writers.items():
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(reader)


@pytest.fixture
def pipe(tmp_path: Path, make_pipe: Callable[[Path], Path]) -> Path:
    return make_pipe(tmp_path / "pipe.npz")


@pytest.mark.parametrize("read", [load_arrays, read_arrays, digest_file, digest_once])
def test_a_pipe_is_refused_by_whatever_reads_files(pipe: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(InputError, match=WORDS):
        read(pipe)


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_a_pipe_is_refused_whatever_its_name_promises(
    make_pipe: Callable[[Path], Path], tmp_path: Path, suffix: str
) -> None:
    with pytest.raises(InputError, match=WORDS):
        read_arrays(make_pipe(tmp_path / f"pipe{suffix}"))


def test_a_link_to_a_pipe_or_a_device_is_one(pipe: Path, tmp_path: Path) -> None:
    for number, target in enumerate((pipe, "/dev/zero")):
        link = tmp_path / f"{number}.npz"
        link.symlink_to(target)
        with pytest.raises(InputError, match=rf"^{number}\.npz: is a pipe, a socket or a device"):
            load_arrays(link)


def test_a_pipe_among_the_data_of_a_set_is_named_rather_than_passed_over(pipe: Path, tmp_path: Path) -> None:
    assert pipe.exists()
    with pytest.raises(InputError, match=rf"^{WORDS}"):
        data_files_in(tmp_path)


def test_a_socket_in_a_model_s_data_is_named_with_its_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model_folder(tmp_path / "model", validation={"data": "data"})
    (folder / "data").mkdir()
    (folder / "validation.npz").rename(folder / "data" / "a.npz")
    monkeypatch.chdir(folder / "data")  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("b.npz")
        with pytest.raises(InputError, match=r"^model\.yaml: validation\.data: b\.npz: is a pipe, a socket or"):
            read_model_directory(folder)


def test_a_pipe_as_a_model_s_data_is_named_with_its_field(tmp_path: Path, make_pipe: Callable[[Path], Path]) -> None:
    folder = write_model_folder(tmp_path / "model")
    (folder / "validation.npz").unlink()
    make_pipe(folder / "validation.npz")
    with pytest.raises(InputError, match=r"^model\.yaml: validation\.data: validation\.npz: is a pipe"):
        read_model_directory(folder)


def test_a_pipe_beside_a_model_s_sources_is_no_source_and_is_not_opened(
    tmp_path: Path, make_pipe: Callable[[Path], Path]
) -> None:
    folder = write_model_folder(tmp_path / "model")
    before = read_model_directory(folder).source_files()
    make_pipe(folder / "editor.pipe")
    assert read_model_directory(folder).source_files() == before


def test_the_gate_refuses_a_pipe_in_either_folder(pipe: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("outputs: {s: {kind: score}}\nrules: [{output: s, metric: mae, max: 1}]")
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "pipe.npz", s=np.zeros(3))
    with pytest.raises(InputError, match=WORDS):
        judge_files(pipe.parent, tmp_path / "other", policy)
    with pytest.raises(InputError, match=WORDS):
        judge_files(tmp_path / "other", pipe.parent, policy)
