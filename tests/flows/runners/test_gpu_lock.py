from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from flows.runners import gpu_lock
from flows.runners.gpu_lock import hold_target
from tasks.backends.gpu import Gpu
from tasks.errors import RefusedError, StageError

if TYPE_CHECKING:
    from pathlib import Path

ALONE = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def gpu(name: str) -> Gpu:
    return Gpu(name=name, compute_capability="7.5", driver="1", cuda="13.0", mig=None, uuid="GPU-1/../2")


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu_lock, "LOCKS", tmp_path)
    monkeypatch.setattr(gpu_lock, "find_gpu", lambda: gpu("NVIDIA T4"))
    return tmp_path


def is_free(path: Path) -> bool:
    return subprocess.run([sys.executable, "-c", ALONE, path], stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_a_gpu_is_held_by_one_engine_at_a_time_whoever_made_the_lock_s_file(locks: Path) -> None:
    with hold_target("t4"):
        (path,) = locks.iterdir()
        assert path.name == "enginegate-gpu-GPU-1----2.lock"
        assert not is_free(path)
    assert is_free(path)
    path.chmod(0o444)  # as another user's file is to us
    with hold_target("t4"):
        assert not is_free(path)
    assert path.read_bytes() == b""


def test_work_for_another_gpu_is_refused_and_says_where_this_one_belongs(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(
            RefusedError,
            match=r"^this runner has NVIDIA T4 \(target t4\), and the engine is for a10g;"
            r" start this worker on pool gpu-t4$",
        ),
        hold_target("a10g"),
    ):
        pass
    monkeypatch.setattr(gpu_lock, "find_gpu", lambda: gpu("NVIDIA GeForce GTX 1080"))
    with pytest.raises(RefusedError, match=r"no target of ours.*no pool takes it"), hold_target("t4"):
        pass
    assert list(locks.iterdir()) == []


def test_a_link_in_the_lock_s_place_is_not_followed(locks: Path) -> None:
    (locks / "enginegate-gpu-GPU-1----2.lock").symlink_to(locks / "elsewhere")
    with pytest.raises(StageError, match="cannot be opened"), hold_target("t4"):
        pass
    assert not (locks / "elsewhere").exists()


def test_the_cpu_is_never_held(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_lock, "find_gpu", lambda: pytest.fail("no GPU is asked"))
    with hold_target("cpu"):
        assert list(locks.iterdir()) == []
