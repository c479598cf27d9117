"""A runner's hold on its GPU: only if it is the target, and for one engine at a time, so that times are clean."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.backends import CPU
from tasks.backends.gpu import find_gpu
from tasks.errors import RefusedError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

# One place for all users and homes of a host, whatever TMPDIR says.
LOCKS = Path("/tmp")  # noqa: S108 - opened without following links, never written to


@contextmanager
def hold_target(target: str) -> Iterator[None]:
    """Hold this host's GPU, which must be `target`, until the work inside is done; nothing is held for the CPU.

    Raises:
        StageError: there is no GPU here.
        RefusedError: the GPU here is another target's.
    """
    if target == CPU:
        yield
        return
    gpu = find_gpu()
    if gpu.target != target:
        from flows.runners.pools import pool_of  # noqa: PLC0415 - imports Prefect, which takes seconds

        known = "no target of ours" if gpu.target is None else f"target {gpu.target}"
        remedy = "no pool takes it" if gpu.target is None else f"start this worker on pool {pool_of(gpu.target)}"
        raise RefusedError(f"this runner has {gpu.name} ({known}), and the engine is for {target}; {remedy}")
    lock = _open(LOCKS / f"enginegate-gpu-{re.sub('[^A-Za-z0-9-]', '-', gpu.uuid)}.lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _open(path: Path) -> int:
    """A descriptor of the lock's file. Reading is enough to lock it, so that it may be another user's."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            # Not without O_EXCL: kernels refuse O_CREAT on another user's file in /tmp.
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:  # somebody made it in between
        return os.open(path, flags)
    except OSError as error:
        raise StageError(f"{path} cannot be opened ({error.strerror}); remove it, or let every user read it") from None
