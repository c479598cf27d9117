"""Reads blobs through one `git cat-file --batch`, in chunks, so that weights of any size need no memory."""

from __future__ import annotations

import os
import select
import subprocess
from typing import TYPE_CHECKING

from tasks.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 1 << 20
LONGEST_HEADER = 4096
SILENCE_S = 60.0
"""Longest time without a byte of git, in seconds."""


class BlobReader:
    """One process of git for all blobs. It starts on first use; `close` ends it, and the next use starts another."""

    def __init__(self, command: list[str], environment: dict[str, str], silence_s: float = SILENCE_S) -> None:
        self._command, self._environment, self._silence_s = command, environment, silence_s
        self._process: subprocess.Popen[bytes] | None = None
        self._ahead = b""

    def close(self) -> None:
        """End the process."""
        process, self._process, self._ahead = self._process, None, b""
        if process is not None:
            process.kill()
            process.communicate()

    def read(self, oid: str, limit: int) -> bytes | None:
        """The content of a blob, or None if it has more than `limit` bytes.

        Raises:
            InputError: the repository lacks it, or it is damaged.
            StageError: git does not answer.
        """
        size = self._ask(oid)
        if size > limit:
            self.close()
            return None
        return b"".join(self._content(size))

    def chunks(self, oid: str) -> Iterator[bytes]:
        """The content of a blob, chunk by chunk; errors as of `read`."""
        size, finished = self._ask(oid), False
        try:
            yield from self._content(size)
            finished = True
        finally:
            if not finished:  # what is left in the pipe would be taken for the next answer
                self.close()

    def _ask(self, oid: str) -> int:
        process = self._running()
        try:
            os.write(process.stdin.fileno(), f"{oid}\n".encode())  # type: ignore[union-attr]
        except BrokenPipeError:
            raise self._ended(oid) from None
        header = self._line(oid).split(" ")
        if header[-1:] == ["missing"]:
            raise InputError(
                f"the repository has no object {oid}: it is a partial or shallow clone, borrows from a repository that"
                " is gone, or is damaged; clone it again in full"
            )
        if len(header) != 3 or header[1] != "blob":  # noqa: PLR2004 - oid, kind, size
            self.close()
            raise InputError(f"object {oid} is no file's content ({' '.join(header)}); check with `git fsck`")
        return int(header[2])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
            )
        return self._process

    def _line(self, oid: str) -> str:
        while b"\n" not in self._ahead:
            if len(self._ahead) > LONGEST_HEADER:
                raise self._ended(oid)
            self._ahead += self._receive(CHUNK_BYTES, oid)
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line.decode(errors="replace")

    def _content(self, size: int) -> Iterator[bytes]:
        left = size + 1  # git ends a content with a newline
        while left:
            if not self._ahead:
                self._ahead = self._receive(min(left, CHUNK_BYTES), "")
            chunk, self._ahead = self._ahead[:left], self._ahead[left:]
            left -= len(chunk)
            yield chunk if left else chunk[:-1]

    def _receive(self, most: int, oid: str) -> bytes:
        pipe = self._running().stdout.fileno()  # type: ignore[union-attr]
        ready, _, _ = select.select([pipe], [], [], self._silence_s)
        if not ready:
            self.close()
            raise StageError(f"git said nothing for {self._silence_s:g} s while it read an object; try again")
        received = os.read(pipe, most)
        if not received:
            raise self._ended(oid)
        return received

    def _ended(self, oid: str) -> InputError:
        self.close()
        return InputError(f"git could not read object {oid or 'that it began with'}; check with `git fsck`")
