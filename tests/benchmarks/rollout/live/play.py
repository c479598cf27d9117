"""Rollouts for real, on one machine: Triton with the router, S3, 50 requests a second, a judge; canaries good and bad.

    PYTHONPATH=. python tests/benchmarks/rollout/live/play.py [--kills N] [--to DIR] [SCENARIO…]

It wants `make triton`. Each scenario begins with a registry of its own, and ends where its rollout does. The table says
how each ended, after how many seconds, who saw the canary, and what came of production's answers. With `--to` it writes
records as JSON, from which `draw.py` makes the timelines of docs/rollouts-live.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import EnginegateError
from tasks.registry.steps import RolloutStatus, StepKind
from tasks.rollout.shards import ArmShard, read_shard
from tasks.serving.triton_api import TritonApi
from tests.benchmarks.rollout.live import engines
from tests.benchmarks.rollout.live.clients import RATE, Answer, Clients
from tests.benchmarks.rollout.live.engines import LiveEngine
from tests.benchmarks.rollout.live.stage import CANARY, MODEL, ROLLOUT, Stage, staged
from tests.tasks.serving_host import PRODUCTION
from tests.tasks.tiny import SCORER, cell, make_features, score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.registry.rollouts import RolloutHistory

BASE = LiveEngine(SCORER, score)
SCENARIOS = {
    "good": engines.good,
    "damaged": engines.damaged,
    "one slice": engines.one_slice,
    "slow": engines.slow,
    "errors": engines.errors,
    "crash": engines.crash,
}
HEADINGS = (
    "canary", "ended", "s", "requests", "of them by the canary", "users who got another answer than production's",
    "without an answer", "answers of no engine",
)  # fmt: skip
BEFORE_S, AFTER_S, LONGEST_S = 3.0, 5.0, 600.0
# The router writes what it saw every 30 s: killed each time before, it would leave no evidence, and nothing would move.
VICTIMS = ("judge", "judge", "judge", "watch", "watch", "watch", "router", "router", "server", "server")
LOOK_S, STATUS_S = 0.5, 4.0


@dataclass
class Played:
    """What happened: times are seconds since the clients began.

    `weights` are (time, percent) as the signed steps say, `steps` (time, kind, why), `rules` (time, the judge's rules).
    `canary_answers` is the router's own count. `kills` are (from, until, what): until the model answered again.
    """

    name: str
    ended: str = ""
    began_at: float = 0.0
    ended_at: float = 0.0
    canary_answers: int = 0
    answers: list[Answer] = field(default_factory=list)
    weights: list[tuple[float, float]] = field(default_factory=list)
    steps: list[tuple[float, str, str]] = field(default_factory=list)
    rules: list[tuple[float, list[dict[str, Any]]]] = field(default_factory=list)
    kills: list[tuple[float, float, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Answer]:
        """Requests that nobody answered."""
        return [one for one in self.answers if one.failed]

    @property
    def failed_while_up(self) -> list[Answer]:
        """Those of them that were sent while server and router were up, and not on their way when one was killed."""
        away = [(start, end) for start, end, what in self.kills if what in {"server", "router"}]
        return [
            one
            for one in self.failed
            if not any(start <= one.at + one.ms / 1000 and one.at <= end for start, end in away)
        ]

    @property
    def strange(self) -> list[Answer]:
        """Answers that no engine would have given."""
        return [one for one in self.answers if not one.failed and not one.by]

    @property
    def seen_by(self) -> set[int]:
        """Users who got an answer that production would not have given."""
        return {one.user for one in self.answers if one.by and "production" not in one.by}


def play(root: Path, name: str, canary: LiveEngine) -> Played:
    """Roll one engine out beside a good production, until the rollout has ended."""
    played = Played(name)
    with staged(root, BASE) as stage:
        known = {"production": BASE.expected, "canary": canary.expected}
        with Clients(stage.port, known) as clients:
            time.sleep(BEFORE_S)
            begin(stage, canary, name)
            played.began_at = clients.now
            _follow(stage, clients, played)
            time.sleep(AFTER_S)
        played.answers = clients.answers
        played.canary_answers = _canary_answers(stage)
        code, found = stage.run("rollout", "verify", *MODEL)
        if code:
            played.faults.append(f"verify: {found}")
    return played


def begin(stage: Stage, canary: LiveEngine, reason: str) -> str:
    """Publish an engine, make it the canary, start its rollout and who judges it."""
    version = stage.publish(canary)
    stage.promote(version, CANARY)
    code, document = stage.run(
        "rollout", "start", *MODEL, "--plan", str(stage.root / "rollout.yaml"), "--reason", reason
    )
    assert code in {0, 4}, document
    stage.start_judge()
    return version


def _follow(stage: Stage, clients: Clients, played: Played) -> None:
    asked = 0.0
    while clients.now - played.began_at < LONGEST_S:
        history = stage.history()
        _note(history, clients.now, played)
        if history.open_rollout is None:
            played.ended_at = clients.now
            played.ended = history.steps[-1].step.kind.value
            return
        if clients.now - asked > STATUS_S:
            asked = clients.now
            decision = stage.run("rollout", "status", *MODEL)[1]["decision"]
            played.rules.append((clients.now, [] if decision is None else decision["rules"]))
        time.sleep(LOOK_S)
    played.ended, played.ended_at = "never", clients.now


def _note(history: RolloutHistory, now: float, played: Played) -> None:
    for one in history.steps[len(played.steps) :]:
        state = one.step.rollout
        played.steps.append((now, one.step.kind.value, (one.step.why or ("",))[0]))
        played.weights.append((now, 0.0 if state is None else state.weight))


def _canary_answers(stage: Stage) -> int:
    """Requests that the canary answered for users, as the router counted them."""
    objects, found = stage.shop.objects, 0
    for state in {one.step.rollout.id for one in stage.history().steps if one.step.rollout is not None}:
        for entry in objects.list(ROLLOUT.shards(state)):
            shard = read_shard(objects, entry.key, ["score"], set(range(1, 999)))
            found += shard.document.arms.canary.requests if isinstance(shard, ArmShard) else 0
    return found


def play_kills(root: Path, kills: int, seed: int = 0) -> Played:
    """One good rollout after the other, while something is killed every few seconds."""
    played, chance = Played(f"{kills} kills"), random.Random(seed)  # noqa: S311 - moments, no secrets
    with staged(root, BASE) as stage:
        plan = root / "rollout.yaml"
        plan.write_text(plan.read_text().replace("soak: 10s", "soak: 3s"))
        with Clients(stage.port, {"production": BASE.expected}) as clients:
            for number in range(kills):
                if stage.history().open_rollout is None:
                    engine = engines.good(len(stage.versions))
                    clients.engines[f"good {len(stage.versions)}"] = engine.expected
                    begin(stage, engine, "good")
                time.sleep(chance.uniform(3, 22))
                victim = chance.choice(VICTIMS)
                killed = clients.now
                _kill(stage, victim)
                _wait_for_answers(stage, clients)
                played.kills.append((killed, clients.now, victim))
                faults = [f"after kill {number + 1} ({victim}): {fault}" for fault in faults_of(stage)]
                played.faults += [fault for fault in faults if fault not in played.faults]
            _finish(stage, clients)
            played.faults += faults_of(stage)
        backwards = {"rollback", "abort"} & {one.step.kind.value for one in stage.history().steps}
        played.faults += [f"a good canary was taken back ({kind})" for kind in sorted(backwards)]
        played.answers, played.ended_at = clients.answers, clients.now
        _note(stage.history(), clients.now, played)
        played.ended = stage.history().steps[-1].step.kind.value
        played.canary_answers = _canary_answers(stage)
        code, found = stage.run("rollout", "verify", *MODEL)
        if code:
            played.faults.append(f"verify: {found}")
    return played


def _kill(stage: Stage, victim: str) -> None:
    """Kill it, and start it again as whatever supervises it would."""
    if victim == "judge":
        stage.start_judge()
    elif victim == "watch":
        stage.start_watch()
    elif victim == "router":
        stage.kill_router()
    else:
        stage.kill_server()


def _wait_for_answers(stage: Stage, clients: Clients) -> None:
    """Until the model answers again, as whoever watches its readiness would see."""
    began, api = clients.now, TritonApi(stage.server.http)
    while clients.now - began < LONGEST_S:
        with contextlib.suppress(EnginegateError):
            api.infer("tiny", {"features": make_features(1)})
            return
        time.sleep(LOOK_S)


def _finish(stage: Stage, clients: Clients) -> None:
    began = clients.now
    while stage.history().open_rollout is not None and clients.now - began < LONGEST_S:
        time.sleep(LOOK_S)


def faults_of(stage: Stage) -> list[str]:
    """Where a rollout jumped: a stage left out, a weight that is not the plan's, production moved before the end."""
    steps = [one.step for one in stage.history().steps]
    faults = []
    for before, after in itertools.pairwise(steps):
        old, new = before.rollout, after.rollout
        if old is None or new is None:
            continue
        if new.id != old.id and (new.stage or after.kind is not StepKind.START):
            faults.append(f"step {after.number} begins in stage {new.stage}")
        if new.id == old.id and new.stage != old.stage + (after.kind is StepKind.ADVANCE):
            faults.append(f"step {after.number} goes from stage {old.stage} to {new.stage}")
        if new.is_open and new.weight != new.plan.weight(new.stage):
            faults.append(f"step {after.number} has weight {new.weight:g} in stage {new.stage}")
        if not new.is_open and new.status is not RolloutStatus.FINISHED and new.weight:
            faults.append(f"step {after.number} ended with weight {new.weight:g}")
    finished = {
        one.rollout.canary.engine_id for one in steps if one.rollout is not None and one.kind is StepKind.FINISH
    }
    moves = stage.shop.registry.channels.read(PRODUCTION).moves[1:]
    faults += [
        f"production moved to {one.move.engine_id}, which did not finish"
        for one in moves
        if one.move.engine_id not in finished
    ]
    served = stage.repository.read_route()
    allowed = {cell(version=version).engine_id for version in stage.versions}
    if served is None or served.engine_id not in allowed:
        faults.append(f"the route leads to {served}")
    return faults


def told(played: Played) -> str:
    """A row of the table."""
    seconds = played.ended_at - played.began_at
    return (
        f"| {played.name} | {played.ended} | {seconds:.0f} | {len(played.answers):,} | {played.canary_answers:,} |"
        f" {len(played.seen_by):,} | {len(played.failed):,} | {len(played.strange):,} |"
    )


def _write(to: Path, played: Played) -> None:
    to.mkdir(parents=True, exist_ok=True)
    (to / f"{played.name.replace(' ', '-')}.json").write_text(json.dumps(asdict(played)) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for; 1 where something was not as it must be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all without any")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="then kill N times during good rollouts")
    parser.add_argument("--seed", type=int, default=0, help="of the kills' moments and victims")
    parser.add_argument("--to", type=Path, metavar="DIR", help="write what happened there")
    options = parser.parse_args(arguments)
    print(f"{RATE} requests a second\n\n| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
    bad = 0
    names = options.scenarios or ([] if options.kills else [*SCENARIOS])
    for name in [*names, *(["kills"] if options.kills else [])]:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "live")
            played = (
                play_kills(root, options.kills, options.seed)
                if name == "kills"
                else play(root, name, SCENARIOS[name]())
            )
        print(told(played), flush=True)
        for why in [*played.faults, *dict.fromkeys(one.failed for one in played.failed)]:
            print(f"    {why}", flush=True)
        if played.kills:
            kinds = Counter(kind for _, kind, _ in played.steps)
            print(f"    killed: {dict(Counter(victim for _, _, victim in played.kills))}; steps: {dict(kinds)}")
            print(f"    without an answer while server and router were up: {len(played.failed_while_up)}")
        if options.to is not None:
            _write(options.to, played)
        wanted = {"finish"} if name in {"good", "kills"} else {"rollback"}
        bad += bool(played.faults or played.strange or played.failed_while_up or played.ended not in wanted)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
