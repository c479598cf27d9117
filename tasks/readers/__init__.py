"""Reads the data that people have into arrays: one module a format, and their table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.readers.array_files import ArrayFiles
from tasks.readers.audio_folder import AudioFolder
from tasks.readers.image_folder import ImageFolder
from tasks.readers.text_files import TextFiles

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.readers.interface import Reader, Reading, ReadRequest

READERS: tuple[Reader, ...] = (ArrayFiles(), TextFiles(), ImageFolder(), AudioFolder())


def reader_of(path: Path) -> Reader:
    """The reader of a file or folder.

    Raises:
        InputError: there is nothing, or nothing that a reader takes.
    """
    if not path.exists():
        raise InputError(f"{path}: does not exist; correct the path of the data")
    for reader in READERS:
        if reader.takes(path):
            return reader
    known = ", ".join(reader.formats for reader in READERS)
    raise InputError(f"{path}: holds no data in a form that is known; bring {known}")


def read_data(request: ReadRequest) -> Reading:
    """Read data by the reader that takes them.

    Raises:
        InputError: naming file, field and remedy.
    """
    reading = reader_of(request.path).read(request)
    if not reading.samples:
        raise InputError(f"{request.path.name}: holds no samples; bring a file with rows")
    return reading
