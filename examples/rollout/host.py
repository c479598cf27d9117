"""A serving host in one file, for the tutorial in docs/rollouts.md: it follows a rollout, and leaves what it saw.

    python examples/rollout/host.py essay-scorer --target cpu --data examples/essay_scorer/validation

It reads the newest signed step as a host does, answers made-up users with both engines on this machine's CPU, and puts
pairs and counts beside the rollout, as the router in Triton does. `--damage 0.1` adds that much to what the canary
answers; `--keep` puts the inputs beside the pairs, as `serving.sampling` may allow. It ends with the rollout.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import secrets
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.console import Reporter
from flows.session import Session
from flows.settings import read_settings
from tasks.backends.ort import OnnxRuntimeBackend
from tasks.process.child import ignore_progress
from tasks.records import Cell
from tasks.registry.rollouts import RolloutAddress

if TYPE_CHECKING:
    from tasks.backends.interface import Engine
    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutState

EDGES = [round(0.01 * 1.05**power, 6) for power in range(370)]  # ms: those of every host, so that counts add up
USERS = 20_000
HOST = "laptop"


def load(registry: Registry, engine_id: str, folder: Path) -> Engine:
    """An engine of the registry, fetched and checked."""
    manifest = registry.engines.read_manifest(Cell.parse(engine_id))
    registry.engines.fetch(manifest.plan, folder / manifest.plan.digest[-12:], ignore_progress)
    return OnnxRuntimeBackend().load(folder / manifest.plan.digest[-12:])


def samples_of(data: Path, inputs: list[str], slices: tuple[str, ...]) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Single samples of validation data, as requests, each with the values of these slices."""
    shards = [np.load(path) for path in sorted(data.glob("*.npz"))]
    return [
        (
            {name: shard[name][row : row + 1] for name in inputs},
            {f"slice.{name}": str(shard[f"slice.{name}"][row]) for name in slices},
        )
        for shard in shards
        for row in range(len(shard[inputs[0]]))
    ]


def share_of(rollout: str, user: str) -> float:
    """Where a user lies between 0 and 1: the same at every step of a rollout."""
    digest = hashlib.blake2b(f"{rollout}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


class Host:
    """Both engines of a rollout, and what was seen since the last period."""

    def __init__(self, registry: Registry, state: RolloutState, folder: Path, chosen: argparse.Namespace) -> None:
        self._production = load(registry, state.production.engine_id, folder)
        self._canary = load(registry, state.canary.engine_id, folder)
        manifest = registry.engines.read_manifest(Cell.parse(state.canary.engine_id))
        self._requests = samples_of(chosen.data, list(manifest.inputs), state.plan.slices)
        self._outputs, self._damage, self._keeps = list(manifest.outputs), chosen.damage, chosen.keep
        self._random = np.random.default_rng()
        self.forget()

    def forget(self) -> None:
        """Begin a period."""
        self.began = time.time()
        self.pairs: list[dict[str, Any]] = []
        self.latencies: dict[str, list[float]] = defaultdict(list)

    def answer(self, state: RolloutState, step: int) -> None:
        """One request of one user."""
        request, slices = self._requests[self._random.integers(len(self._requests))]
        user = f"user-{self._random.integers(USERS)}"
        if share_of(state.id, user) < state.weight / 100:
            self.latencies["canary"].append(self._run(self._canary, request)[1])
            return
        answer, latency = self._run(self._production, request)
        self.latencies["production"].append(latency)
        mirrored, noise = self._random.random() < state.mirror, self._random.random() < state.plan.noise
        for is_noise in [False] * mirrored + [True] * noise:
            other, took = self._run(self._production if is_noise else self._canary, request)
            if not is_noise:
                other = {name: value + self._damage for name, value in other.items()}
            self.pairs.append(
                {
                    "time": time.time(), "key": hashlib.blake2b(user.encode(), digest_size=8).hexdigest(),
                    "request": secrets.token_hex(8), "step": np.int32(step), "noise": is_noise, "failed": "",
                    "latency.production": np.float32(latency), "latency.canary": np.float32(took),
                    **slices,
                    **{f"production.{name}": answer[name] for name in self._outputs},
                    **{f"canary.{name}": other[name] for name in self._outputs},
                    **{f"input.{name}": value[0] for name, value in request.items() if self._keeps},
                }
            )  # fmt: skip

    def _run(self, engine: Engine, request: dict[str, np.ndarray[Any, Any]]) -> tuple[dict[str, Any], float]:
        began = time.perf_counter()
        outputs = engine.run(request)
        return {name: outputs[name][0] for name in self._outputs}, 1000 * (time.perf_counter() - began)

    def leave(self, registry: Registry, address: RolloutAddress, state: RolloutState, step: int) -> None:
        """Put the period's pairs and counts beside the rollout, and begin another."""
        folder, moment = f"{address.shards(state.id)}{HOST}/", time.strftime("%H%M%S", time.gmtime())
        shapes = defaultdict(list)
        for pair in self.pairs:
            shapes[tuple(np.shape(value) for value in pair.values())].append(pair)
        for pairs in shapes.values():
            buffer = io.BytesIO()
            np.savez(buffer, **{name: np.stack([pair[name] for pair in pairs]) for name in pairs[0]})
            name = f"{moment}-a-{len(pairs)}-{secrets.token_hex(8)}.npz"
            registry.objects.create(folder + name, buffer.getvalue())
        document = {
            "schema_version": 1, "step": step, "from": self.began, "to": time.time(), "lost_pairs": 0,
            "arms": {arm: self._counted(arm) for arm in ("production", "canary")},
        }  # fmt: skip
        registry.objects.create(f"{folder}{moment}-a-arms-{secrets.token_hex(8)}.json", json.dumps(document).encode())
        self.forget()

    def _counted(self, arm: str) -> dict[str, Any]:
        took = self.latencies[arm]
        counts = np.bincount(np.searchsorted(EDGES, took, side="right"), minlength=len(EDGES) + 1) if took else []
        return {
            "requests": len(took), "errors": 0, "timeouts": 0, "warm_up": 0, "users": len(took),
            "latency_ms": {"edges": EDGES, "counts": [int(each) for each in counts] or [0] * (len(EDGES) + 1)},
        }  # fmt: skip


def main() -> None:
    """Serve until the rollout ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--target", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--period", type=float, default=5.0, help="seconds between two files")
    parser.add_argument("--damage", type=float, default=0.0, help="added to what the canary answers")
    parser.add_argument("--keep", action="store_true", help="keep inputs")
    chosen = parser.parse_args()
    registry = Session(read_settings(), Reporter()).registry
    address = RolloutAddress(chosen.model, chosen.target)
    with TemporaryDirectory() as folder:
        history = registry.rollouts.read(address)
        state = history.open_rollout
        host = None if state is None else Host(registry, state, Path(folder), chosen)
        while host is not None and state is not None and history.current is not None:
            step = history.current.number
            while time.time() - host.began < chosen.period:
                host.answer(state, step)
                time.sleep(1 / chosen.rate)
            host.leave(registry, address, state, step)
            history = registry.rollouts.read(address)
            state = history.open_rollout


if __name__ == "__main__":
    main()
