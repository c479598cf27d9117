from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tasks.errors import InputError
from tasks.readers import lazy_groups, read_data
from tasks.readers.interface import UNNAMED, ReadRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.samples.npz import Arrays


def save_image(path: Path, grey: int, size: tuple[int, int] = (4, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), grey, np.uint8)).save(path)


def test_folders_are_labels_and_sizes_are_groups(tmp_path: Path) -> None:
    save_image(tmp_path / "cats" / "a.png", 255)
    save_image(tmp_path / "dogs" / "a.png", 51)
    save_image(tmp_path / "dogs" / "b.png", 0, (2, 2))
    reading = read_data(ReadRequest(tmp_path))
    small, large = reading.groups
    assert (small[UNNAMED].shape, large[UNNAMED].shape) == ((1, 3, 2, 2), (2, 3, 3, 4))
    assert large[UNNAMED][:, 0, 0, 0].tolist() == [1.0, np.float32(0.2)]
    assert (large["label"].tolist(), small["label"].tolist()) == ([0, 1], [1])
    assert reading.labels == {"cats": 0, "dogs": 1}
    assert "not normalised" in reading.notes[0]


def test_images_without_folders_have_no_label(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", 255)
    (group,) = read_data(ReadRequest(tmp_path)).groups
    assert list(group) == [UNNAMED]


def test_images_that_are_none_are_named(tmp_path: Path) -> None:
    save_image(tmp_path / "cats" / "a.png", 255)
    (tmp_path / "cats" / "b.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match=r"cats/b.png is no readable image .*remove or replace it"):
        read_data(ReadRequest(tmp_path))
    (tmp_path / "cats" / "b.png").rename(tmp_path / "cats" / "notes.txt")
    with pytest.raises(InputError, match=r"cats/notes.txt is no image .*move it elsewhere"):
        read_data(ReadRequest(tmp_path))


def test_an_image_beside_the_folders_of_labels_is_told(tmp_path: Path) -> None:
    save_image(tmp_path / "cats" / "a.png", 255)
    save_image(tmp_path / "b.png", 255)
    with pytest.raises(InputError, match=r"b\.png lies beside folders of labels; move it into one"):
        read_data(ReadRequest(tmp_path))


def test_images_that_are_too_many_for_memory_are_written_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_groups, "GROUP_BYTES", 1000)
    (tmp_path / "stored").mkdir()
    for number in range(12):
        place = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 2 + number % 3), (number, 0, 0)).save(place)
    plain = read_data(ReadRequest(tmp_path / "images"))
    stored = read_data(ReadRequest(tmp_path / "images", folder=tmp_path / "stored"))
    assert list((tmp_path / "stored").iterdir())

    def samples(found: Sequence[Arrays]) -> set[tuple[bytes, int]]:
        return {
            (row.tobytes(), int(label))
            for group in found
            for row, label in zip(group[UNNAMED], group["label"], strict=True)
        }

    assert samples(stored.groups) == samples(plain.groups)
    assert all(sum(array.nbytes for array in group.values()) < 2000 for group in stored.groups)
    few = read_data(ReadRequest(tmp_path / "images", most=5))
    assert samples(few.groups) < samples(plain.groups)
    assert (few.samples, few.labels) == (5, plain.labels)
