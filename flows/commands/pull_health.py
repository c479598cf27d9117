"""How `pull --watch --layout triton` is, as files: JSON for people and probes, and text that Prometheus reads."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tasks.store.scratch import ScratchSpace

if TYPE_CHECKING:
    from flows.commands.pull_rollout import RolloutWatch
    from tasks.registry.moves import ChannelAddress
    from tasks.serving.triton_repository import TritonRepository

JSON_FILE, TEXT_FILE = "health.json", "health.prom"
_METRICS = {
    "served_move": "Number of the channel's move whose engine is served; 0 where none is.",
    "last_look_timestamp_seconds": "When the channel was looked at last.",
    "last_failure_timestamp_seconds": "When a look or a switch failed last; 0 where none did.",
    "failing": "Whether the last try failed, and what was served before is served on.",
}
_ROLLOUT_METRICS = {
    "followed_rollout_step": "Number of the rollout's step that this host follows; 0 without a rollout.",
    "followed_rollout_weight": "Percent of the traffic that the canary answers here.",
    "canary_crashed": "Whether the canary of the open rollout cannot answer here.",
    "evidence_files_waiting": "Files of evidence that wait for the registry.",
    "evidence_files_lost": "Files of evidence that gave way to newer ones since the watch began.",
}


@dataclass
class Health:
    """What is served, when the channel was looked at, and what failed last; times are seconds since 1970, UTC.

    `write_look` replaces `health.json` and `health.prom` in the model's folder of state, for node_exporter's textfile
    collector. That a disk is full is told where it stops a pull: here it leaves the files old, which is what they say.
    """

    repository: TritonRepository
    address: ChannelAddress
    rollout: RolloutWatch | None = None
    _failure: tuple[float, str, int] | None = None
    _failing: bool = False

    def note_failure(self, message: str, exit_code: int) -> None:
        """A look or a switch failed."""
        self._failure, self._failing = (time.time(), message, exit_code), True

    def note_recovery(self) -> None:
        """All is well again."""
        self._failing = False

    def write_look(self) -> None:
        """Write both files, each by one rename."""
        found = self._found(time.time())
        with suppress(OSError):
            scratch = ScratchSpace(self.repository.state / ".scratch")
            scratch.write(self.repository.state / JSON_FILE, (json.dumps(found, indent=2) + "\n").encode())
            scratch.write(self.repository.state / TEXT_FILE, self._text(found).encode())

    def _found(self, now: float) -> dict[str, Any]:
        route, failure = self.repository.read_route(), self._failure
        return {
            "model": self.address.model,
            "target": self.address.target,
            "channel": self.address.channel.value,
            "move": None if route is None else route.move,
            "engine_id": None if route is None else route.engine_id,
            "last_look": _time_of(now),
            "failing": self._failing,
            "last_failure": None
            if failure is None
            else {"when": _time_of(failure[0]), "error": failure[1], "exit_code": failure[2]},
            "rollout": None if self.rollout is None else self.rollout.document(),
        }

    def _text(self, found: dict[str, Any]) -> str:
        failure = found["last_failure"]
        values = {
            "served_move": found["move"] or 0,
            "last_look_timestamp_seconds": _seconds_of(found["last_look"]),
            "last_failure_timestamp_seconds": 0 if failure is None else _seconds_of(failure["when"]),
            "failing": int(found["failing"]),
        }
        texts = dict(_METRICS)
        if (rollout := found["rollout"]) is not None:
            texts |= _ROLLOUT_METRICS
            values |= {
                "followed_rollout_step": rollout["step"] or 0,
                "followed_rollout_weight": rollout["weight"],
                "canary_crashed": int(rollout["crashed"]),
                "evidence_files_waiting": rollout["files_waiting"],
                "evidence_files_lost": rollout["files_lost"],
            }
        labels = ",".join(f'{key}="{found[key]}"' for key in ("model", "target", "channel"))
        return "".join(
            f"# HELP enginegate_{name} {text}\n# TYPE enginegate_{name} gauge\n"
            f"enginegate_{name}{{{labels}}} {values[name]}\n"
            for name, text in texts.items()
        )


def _time_of(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _seconds_of(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())
