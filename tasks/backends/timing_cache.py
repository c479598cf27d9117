"""TensorRT's timing cache in a file: what a kernel took, so that no build times it again.

One file serves one GPU model, TensorRT and CUDA. Builders on one host may use it at once: each adds what it found
to what is there by then, under a lock, and replaces the file in one step.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from tasks.store.digests import digest_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.backends.trt_log import TrtLog
    from tasks.records import BackendIdentity


def timing_cache_path(folder: Path, identity: BackendIdentity) -> Path:
    """The file in `folder` for a GPU model, TensorRT and CUDA."""
    content = [identity.device, identity.mig, identity.compute_capability, identity.version, identity.cuda]
    return folder / f"tensorrt-{identity.version}-{digest_json(content)[-12:]}.cache"


def forget_timings(path: Path) -> None:
    """Throw a file away that led a builder to a kernel that is wrong."""
    if path.exists():
        with FileLock(f"{path}.lock"):
            path.unlink(missing_ok=True)


class TimingCache:
    """The cache of one build; without a path nothing is read or kept, but the plans of one build share timings.

    Where it is not to be kept at all, they do not: TensorRT-RTX, which times nothing, cannot read one without a driver.
    `content` is what a build without a path begins with.
    """

    def __init__(self, path: Path | None, log: TrtLog, *, is_kept: bool = True, content: bytes = b"") -> None:
        self._path, self._is_kept = path, is_kept
        self._log = log
        self._warnings: list[str] = []
        self._content = content
        try:
            self._content = self._read() or content
        except OSError as error:
            self._warnings.append(f"the timing cache cannot be read ({error}); every kernel is timed again")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could not be used, a sentence each."""
        return tuple(dict.fromkeys(self._warnings))

    @property
    def content(self) -> bytes:
        """The cache, serialized: what the next plan begins with."""
        return self._content

    def _read(self) -> bytes:
        if self._path is None or not self._path.is_file():
            return b""
        return self._path.read_bytes()

    def configure(self, create: Callable[[str | None], Any]) -> Any:
        """The builder configuration that `create` makes with a cache file, or without one if TensorRT rejects it.

        A rejected cache is an error in TensorRT's log only: its functions return success.
        """
        if not self._content:
            return create(None)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "timing.cache"
            file.write_bytes(self._content)
            self._log.clear()
            config = create(str(file))
        if not self._log.has_errors:
            return config
        self._warnings.append(
            f"the timing cache {self._path.name if self._path else 'of this build'} is left out, since TensorRT rejects"
            f" it ({self._log.errors()}); every kernel is timed again"
        )
        self._content = b""
        return create(None)

    def keep(self, config: Any) -> None:
        """Take over what a build has timed, and write it to the file beside what others wrote there meanwhile."""
        cache = config.get_timing_cache()
        if cache is None or not self._is_kept:
            return
        self._content = bytes(cache.serialize())
        if self._path is None:
            return
        try:
            self._write(self._path, config, cache)
        except OSError as error:  # the plan is built, and worth more than what it took to build it
            self._warnings.append(f"the timing cache cannot be kept ({error}); the next build times every kernel again")

    def _write(self, path: Path, config: Any, cache: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            self._add_others(config, cache)
            _replace(path, self._content)

    def _add_others(self, config: Any, cache: Any) -> None:
        others = self._read()
        if not others:
            return
        self._log.clear()
        theirs = config.create_timing_cache(others)
        if theirs is not None and not self._log.has_errors and cache.combine(theirs, ignore_mismatch=False):
            self._content = bytes(cache.serialize())
        self._log.clear()


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
