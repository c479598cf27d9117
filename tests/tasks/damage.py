"""Damages files and objects as disks, people and those who mean harm do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.objects.interface import ObjectStore


@dataclass(frozen=True)
class ObjectFile:
    """An object of any store, to be changed as a file is: without asking what is there."""

    objects: ObjectStore
    key: str

    def exists(self) -> bool:
        return self.objects.size(self.key) is not None

    def read_bytes(self) -> bytes:
        found = self.objects.read(self.key)
        assert found is not None
        return found.content

    def write_bytes(self, content: bytes) -> None:
        self.objects.delete(self.key)
        self.objects.create(self.key, content)

    def unlink(self) -> None:
        self.objects.delete(self.key)

    def chmod(self, mode: int) -> None:
        """An object has no rights of its own."""

    def rename(self, other: ObjectFile) -> None:
        content = self.read_bytes()
        self.unlink()
        other.write_bytes(content)


def contents_of(objects: ObjectStore) -> dict[str, bytes]:
    """Every object of a store."""
    return {entry.key: ObjectFile(objects, entry.key).read_bytes() for entry in objects.list("")}


def flip_a_bit(path: Path | ObjectFile) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def truncate(path: Path | ObjectFile) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


def remove(path: Path | ObjectFile) -> None:
    path.unlink()
