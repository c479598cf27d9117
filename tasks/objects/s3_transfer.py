"""Large objects in parts, several at once and in bounded memory: what S3 is fast at."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.errors import StageError
from tasks.objects.files import chunks_of
from tasks.objects.s3_client import ATTEMPTS, BROKEN_BODY, pause

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

# With parts of 16 MiB, 264 MB at most were measured; eight took 306 MB, and were slower on two cores.
THREADS = 4
# What is taken from a connection at once; it is copied, and stays in the processor's cache.
READ_BYTES = 1 << 18
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Parts:
    """What completes a multipart upload: its parts as S3 wants them listed, and `sha256:…` of all bytes."""

    listed: list[dict[str, Any]]
    digest: str


def send_parts(
    client: Any, upload: dict[str, str], path: Path, part_bytes: int, on_sent: Callable[[int], None]
) -> Parts:
    """Upload a file part by part, while its SHA-256 is taken.

    Args:
        client: of S3.
        upload: Bucket, Key and UploadId.
        path: the file.
        part_bytes: size of a part, 5 MiB or more.
        on_sent: told how many bytes have arrived.
    """
    hasher, listed, sent = hashlib.sha256(), [], 0

    def numbered() -> Iterator[tuple[int, bytes]]:
        for number, content in enumerate(chunks_of(path, part_bytes), start=1):
            hasher.update(content)
            yield number, content

    def send(part: tuple[int, bytes]) -> tuple[dict[str, Any], int]:
        number, content = part
        answer = client.upload_part(**upload, PartNumber=number, Body=content)
        return {"PartNumber": number, "ETag": answer["ETag"]}, len(content)

    for part, size in _in_order(send, numbered()):
        listed.append(part)
        sent += size
        on_sent(sent)
    return Parts(listed, f"sha256:{hasher.hexdigest()}")


def fetch_parts(client: Any, source: dict[str, str], size: int, part_bytes: int) -> Generator[memoryview, None, None]:
    """The bytes of an object in order, several ranges at once; each is good until the next is asked for.

    Args:
        client: of S3.
        source: Bucket and Key, and IfMatch, so that all ranges are of one version.
        size: of the object, in bytes.
        part_bytes: size of a range.

    Raises:
        StageError: a range broke off again and again.
    """
    ranges = ((start, min(start + part_bytes, size)) for start in range(0, size, part_bytes))
    free: SimpleQueue[bytearray] = SimpleQueue()  # used again: new memory takes the kernel as long as the hash takes us

    def fetch(span: tuple[int, int]) -> tuple[bytearray, memoryview]:
        try:
            buffer = free.get_nowait()
        except Empty:
            buffer = bytearray(min(part_bytes, size))
        return buffer, _fetch_range(client, source, memoryview(buffer)[: span[1] - span[0]], span[0])

    for buffer, content in _in_order(fetch, ranges):
        yield content
        free.put(buffer)


def _fetch_range(client: Any, source: dict[str, str], content: memoryview, start: int) -> memoryview:
    filled, stop = 0, start + len(content)
    for attempt in range(ATTEMPTS):
        body = client.get_object(**source, Range=f"bytes={start + filled}-{stop - 1}")["Body"]
        with suppress(*BROKEN_BODY), closing(body):
            while got := body.readinto(content[filled : filled + READ_BYTES]):
                filled += got
        if filled == len(content):
            return content
        pause(attempt)
    raise StageError(
        f"s3://{source['Bucket']}/{source['Key']}: its bytes from {start + filled} on broke off {ATTEMPTS} times;"
        " check the network and the server, and run it again"
    )


def _in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results of `work` in the order of `items`, which are taken as room for them becomes free."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
