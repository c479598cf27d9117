"""Objects in S3, or in a server that speaks its protocol and honours `If-Match` and `If-None-Match` on PutObject.

A write whose answer was lost is sent again, and then fails on its own result: 412. So that this is told from somebody
else's, every write carries an id in the object's metadata, and those of the versions before it: an object whose list
has the id was ours, even if others have moved it on since.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from tasks.errors import RefusedError, StageError
from tasks.objects.files import check_chunks, check_digest, write_checked, write_new
from tasks.objects.interface import MAX_READ_BYTES, ChangedError, Entry, Versioned, check_key, check_prefix, is_key
from tasks.objects.s3_client import (
    ATTEMPTS,
    BROKEN_BODY,
    CONFLICT,
    NOT_FOUND,
    PRECONDITION,
    connect,
    explained,
    is_absent,
    is_first_answer,
    may_pass,
    pause,
    status_of,
)
from tasks.objects.s3_transfer import THREADS, fetch_parts, send_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

PART_BYTES = 16 << 20
MAX_PARTS = 10_000  # S3's
TIMEOUT_S = 60.0
# Metadata of an object: ids of its writers, the newest first. S3 takes 2 KB of metadata in all.
WRITERS = "enginegate-writers"
MAX_WRITERS = 100
NEW = {"IfNoneMatch": "*"}
# The ETag of our own version, where others moved it on before it could be read: no version has this one.
MOVED_ON = "0" * 32


@dataclass(frozen=True)
class _Found:
    """What HEAD says of an object."""

    size_bytes: int
    etag: str
    writers: tuple[str, ...]


class S3Objects:
    """The objects of a bucket whose keys start with a prefix; see the interface.

    It is safe between threads. Between processes it is not, once it was used: open one after a fork.
    """

    def __init__(
        self, bucket: str, prefix: str = "", *, part_bytes: int = PART_BYTES, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Connect with endpoint, region and credentials as any AWS tool takes them.

        Args:
            bucket: its name.
            prefix: what every key starts with, without a slash at its end; empty for the bucket itself.
            part_bytes: a larger file is sent and fetched in parts of this size, 5 MiB or more; some ten of them are
                in memory.
            timeout_s: longest silence of the server in an answer.

        Raises:
            InputError: the settings are at fault.
        """
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._part_bytes = part_bytes
        self._client = connect(bucket, THREADS, timeout_s)

    @property
    def address(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def create(self, key: str, content: bytes) -> bool:
        """Write a new object; see the interface. A write whose answer was lost is known for ours."""
        return self._put(key, content, NEW, ()) is not None

    def replace(self, key: str, content: bytes, tag: str | None) -> str:
        """Move an object from one version to the next; see the interface.

        The tag is the ETag with the ids of its writers. One that others moved on 100 times before its lost answer is
        looked up is told as changed.
        """
        etag, _, writers = (tag or "").partition(" ")
        # Without quotes: S3 takes both, radosgw 16 compares the text.
        condition = NEW if tag is None else {"IfMatch": etag}
        new = self._put(key, content, condition, tuple(writers.split(",")) if writers else ())
        if new is None:
            raise ChangedError(f"{self._place(key)}: somebody else wrote or removed it meanwhile; look at it again")
        return new

    def _put(self, key: str, content: bytes, condition: dict[str, str], before: tuple[str, ...]) -> str | None:
        """Write under a condition; return the tag, or None where the condition does not hold."""
        target, writers = self._target(key), _sign(before)
        metadata, started = {WRITERS: ",".join(writers)}, time.monotonic()
        with explained("write", self._place(key)):
            for attempt in range(ATTEMPTS):
                try:
                    answer = self._client.put_object(**target, **condition, Body=content, Metadata=metadata)
                    return _tag(answer["ETag"], writers)
                except (ClientError, BotoCoreError) as error:
                    lost = _is_lost(error)
                    if lost and attempt == 0 and is_first_answer(error):
                        return None
                    found = self._find(key, writers[0])
                    if found:
                        return _tag(found.etag if found.writers == writers else MOVED_ON, writers)
                    if lost:
                        return None
                    if not may_pass(error, time.monotonic() - started):
                        raise
                pause(attempt)
        raise StageError(
            f"{self._place(key)}: cannot write: {ATTEMPTS} writes met others at the same moment or a failing server;"
            " check the network and the server, and run it again"
        )

    def _find(self, key: str, writer: str) -> _Found | None:
        """The object, if a write that was told as failed was carried out all the same."""
        with suppress(ClientError, BotoCoreError):  # the error of the write says more
            found = self._look(key)
            return found if found and writer in found.writers else None
        return None

    def _look(self, key: str) -> _Found | None:
        try:
            answer = self._client.head_object(**self._target(key))
        except ClientError as error:
            if status_of(error) == NOT_FOUND:
                return None
            raise
        return _Found(answer["ContentLength"], _bare(answer["ETag"]), _writers(answer))

    def upload(self, key: str, path: Path, digest: str, on_progress: Callable[[int, int], None]) -> bool:
        """Send a file, in parts if it is large; see the interface.

        An upload that was killed leaves parts that nobody can read: a life-cycle rule of the bucket removes them.
        """
        if self.size(key) is not None:
            return False
        with explained("read", str(path)):
            total = path.stat().st_size
        if total > self._part_bytes:
            return self._upload_parts(key, path, digest, total, on_progress)
        content = path.read_bytes()
        check_digest(str(path), f"sha256:{hashlib.sha256(content).hexdigest()}", digest)
        new = self.create(key, content)
        on_progress(len(content), total)
        return new

    def _upload_parts(
        self, key: str, path: Path, digest: str, total: int, on_progress: Callable[[int, int], None]
    ) -> bool:
        target, writers = self._target(key), _sign(())
        part_bytes = max(self._part_bytes, -(-total // MAX_PARTS))
        with explained("upload to", self._place(key)):
            upload = target | {
                "UploadId": self._client.create_multipart_upload(**target, Metadata={WRITERS: writers[0]})["UploadId"]
            }
            completed = False
            try:
                parts = send_parts(self._client, upload, path, part_bytes, lambda sent: on_progress(sent, total))
                check_digest(str(path), parts.digest, digest)
                completed = self._complete(key, upload, parts.listed, writers[0])
            finally:
                if not completed:
                    with suppress(ClientError, BotoCoreError):
                        self._client.abort_multipart_upload(**upload)
        return completed

    def _complete(self, key: str, upload: dict[str, str], listed: list[dict[str, Any]], writer: str) -> bool:
        # Servers that ignore the condition here (radosgw 16) would write over an object: look once more before.
        if self._look(key) is not None:
            return False
        try:
            self._client.complete_multipart_upload(**upload, **NEW, MultipartUpload={"Parts": listed})
        except (ClientError, BotoCoreError) as error:
            # A second try after a lost answer says 412, or that there is no such upload any more.
            if self._find(key, writer):
                return True
            if status_of(error) in {PRECONDITION, CONFLICT} and self._look(key) is not None:
                return False
            raise
        return True

    def read(self, key: str) -> Versioned | None:
        """Read an object, again if the connection breaks; see the interface."""
        target = self._target(key)
        with explained("read", self._place(key)):
            for attempt in range(ATTEMPTS):
                try:
                    answer = self._client.get_object(**target)
                except ClientError as error:
                    if is_absent(error):
                        return None
                    raise
                content = self._body(key, answer)
                if content is not None:
                    return Versioned(content, _tag(answer["ETag"], _writers(answer)), answer.get("LastModified"))
                pause(attempt)
        raise StageError(f"{self._place(key)}: broke off {ATTEMPTS} times while it was read; check the network")

    def _body(self, key: str, answer: dict[str, Any]) -> bytes | None:
        with closing(answer["Body"]) as body:
            if answer["ContentLength"] > MAX_READ_BYTES:
                raise RefusedError(
                    f"{self._place(key)}: has more than {MAX_READ_BYTES >> 20} MiB, too much to be read; download it"
                )
            with suppress(*BROKEN_BODY):
                return bytes(body.read())
        return None

    def download(self, key: str, path: Path, digest: str, on_progress: Callable[[int, int], None]) -> None:
        """Fetch an object by several ranges at once; see the interface."""
        place = self._place(key)
        with explained("download", place):
            parts, total = self._parts(key)

        def fetch(staged: Path) -> None:
            with closing(parts):
                write_checked(staged, told(), digest, place, lambda done: on_progress(done, total))

        def told() -> Iterator[memoryview]:
            with explained("download", place):  # what fails here is the server's fault, and not this disk's
                yield from parts

        write_new(path, fetch)

    def check(self, key: str, digest: str, on_progress: Callable[[int, int], None]) -> None:
        """Read an object by several ranges at once and check its digest; see the interface."""
        place = self._place(key)
        with explained("check", place):
            parts, total = self._parts(key)
            with closing(parts):
                check_chunks(parts, digest, place, lambda done: on_progress(done, total))

    def _parts(self, key: str) -> tuple[Generator[memoryview, None, None], int]:
        """The bytes of an object, in order, and how many there are."""
        found = self._look(key)
        if found is None:
            if self.read(key) is not None:  # which says if the bucket is missing, where a HEAD cannot
                raise StageError(f"{self._place(key)}: came into being just now; run it again")
            raise RefusedError(f"{self._place(key)}: is missing")
        source = self._target(key) | {"IfMatch": found.etag}
        return fetch_parts(self._client, source, found.size_bytes, self._part_bytes), found.size_bytes

    def size(self, key: str) -> int | None:
        """Size in bytes, or None, of a missing bucket too; see the interface."""
        check_key(key)
        with explained("look at", self._place(key)):
            found = self._look(key)
        return found.size_bytes if found else None

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects whose keys start with `prefix`, page by page; see the interface."""
        start = self._prefix + check_prefix(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start)
        with explained("list", self._place(prefix)):
            for page in pages:
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self._prefix)
                    if is_key(key):
                        yield Entry(key, item["Size"], item["LastModified"])

    def delete(self, key: str) -> None:
        """Remove an object; see the interface."""
        with explained("delete", self._place(key)):
            self._client.delete_object(**self._target(key))

    def now(self) -> datetime:
        """The server's time, which its answers carry; see the interface."""
        with explained("ask the time of", self._place("")):
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        try:
            return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(timezone.utc)
        except (KeyError, ValueError):
            raise StageError(f"{self.address}: its answers have no date; see that no proxy takes it away") from None

    def _target(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _place(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"


def _sign(before: tuple[str, ...]) -> tuple[str, ...]:
    return (uuid.uuid4().hex[:12], *before)[:MAX_WRITERS]


def _writers(answer: dict[str, Any]) -> tuple[str, ...]:
    text = answer.get("Metadata", {}).get(WRITERS, "")
    return tuple(text.split(",")) if text else ()


def _tag(etag: str, writers: tuple[str, ...]) -> str:
    return f"{_bare(etag)} {','.join(writers)}"


def _bare(etag: str) -> str:
    return etag.strip('"')


def _is_lost(error: Exception) -> bool:
    """Whether the condition of a write did not hold: another version is there, or none."""
    return status_of(error) == PRECONDITION or (isinstance(error, ClientError) and is_absent(error))
