"""What Linux does for a process and those below it: limits, ends, and what others may see of it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path

STOP_LIMIT_S = 5.0
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36  # linux/prctl.h


def kill_descendants(pid: int) -> None:
    """Kill all that a subreaper started, in whatever group or session it is.

    It is stopped meanwhile: alive, so that the orphans among them become its children and are found at the next look,
    and unable to start more.
    """
    deadline = time.monotonic() + STOP_LIMIT_S  # against one that forks faster than they are killed
    while time.monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        states, children = _processes()
        found = _below(pid, children)
        alive = [each for each in found if states[each] not in "ZX"]
        for each in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGKILL)
        if not alive and states.get(pid, "X") in "TtZX":
            return
        time.sleep(0.002)


def _processes() -> tuple[dict[int, str], dict[int, list[int]]]:
    """The state and the children of each process; see proc_pid_stat(5)."""
    states: dict[int, str] = {}
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            # What is before the last bracket is a name that the process chose.
            state, parent = path.read_bytes().rpartition(b")")[2].split()[:2]
            states[int(path.parent.name)] = state.decode()
            children.setdefault(int(parent), []).append(int(path.parent.name))
    return states, children


def _below(pid: int, children: dict[int, list[int]]) -> list[int]:
    found = list(children.get(pid, ()))
    for each in found:  # grows meanwhile
        found += children.get(each, ())
    return found


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def hide_environment() -> None:
    """Keep this process's environment and memory from other processes of its user; root may read them all the same."""
    _prctl(PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose parent ends."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that call
        os._exit(1)


def machine_memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def limit_memory(limit_bytes: str) -> None:
    """Let this process, and each that it starts, take so many bytes at most; an empty text sets no limit."""
    if limit_bytes:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(limit_bytes) if most == resource.RLIM_INFINITY else min(int(limit_bytes), most)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, wanted))
