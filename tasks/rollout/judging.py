"""Feeds the judge of a rollout with what hosts saw, and keeps what was used, in which order.

The judge is pure code of the validation room; here are files, stages and engines. A decision rests on a list of files,
whose digest the step that follows holds: `verify` takes the same way again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from tasks.errors import RefusedError, printable
from tasks.records import Cell
from tasks.registry.survey import in_threads
from tasks.rollout.crashes import with_crashes
from tasks.rollout.evidence_list import Evidence, EvidenceFile, EvidenceShelf
from tasks.rollout.plan import judged_rules
from tasks.rollout.shards import Arm, ArmShard, PairShard, RefusedFile, in_order, read_shard
from tasks.rollout.worst import WorstPairs
from validation.rollout_records import JUDGE_VERSION, ArmCounts, Histogram, Pairs, RolloutRules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.records import EngineManifest
    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutHistory
    from tasks.registry.steps import RolloutAddress, RolloutState
    from tasks.rollout.shards import Array, Shard
    from validation.rollout_records import Decision, MakeJudge

BATCH = 64
"""Files that are read at once."""


@dataclass
class Tally:
    """What was seen, beside what the judge says of it.

    `groups` and `canary` are by the place of the stage: independent groups of pairs, and requests that the canary
    answered. `requests` of both arms are by the number of the step that hosts followed. `latest` is the last moment
    that a file knows of (seconds since the epoch). `crashes` says by host why it could not bring the canary up.
    """

    groups: dict[int, set[str]] = field(default_factory=dict)
    canary: Counter[int] = field(default_factory=Counter)
    requests: Counter[int] = field(default_factory=Counter)
    warm_up: int = 0
    lost_pairs: int = 0
    latest: float = 0.0
    crashes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What the judge says at a look, of which files, and what was refused."""

    decision: Decision
    tally: Tally
    files: tuple[EvidenceFile, ...]
    refused: tuple[RefusedFile, ...]
    worst: tuple[str, ...]

    def evidence(self, address: RolloutAddress, rollout: str) -> Evidence:
        """What it says, as it is kept beside the list of files."""
        return Evidence(
            model=address.model,
            target=address.target,
            rollout=rollout,
            files=None,
            refused=tuple((one.key, one.why) for one in self.refused),
            outcome=self.decision.outcome.value,
            sentences=self.sentences,
            pairs=self.decision.pairs,
            groups=self.decision.groups,
            judge=JUDGE_VERSION,
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """Those of the rules, the worst outcome first, fit to be shown."""
        order = ("fail", "inconclusive", "pass")
        rules = sorted(self.decision.rules, key=lambda rule: order.index(rule.outcome.value))
        return tuple(printable(rule.sentence) for rule in rules)


Stages: TypeAlias = "Mapping[int, int]"


def stages_of(history: RolloutHistory, state: RolloutState) -> dict[int, int]:
    """The stage that each step of a rollout left it in, by the step's number."""
    return {
        one.step.number: one.step.rollout.stage
        for one in history.steps
        if one.step.rollout is not None and one.step.rollout.id == state.id
    }


def canary_manifest(registry: Registry, state: RolloutState) -> EngineManifest:
    """The manifest of a rollout's canary.

    Raises:
        InputError: it is not registered any more.
        RefusedError: another one is.
    """
    signed = registry.engines.read_signed(Cell.parse(state.canary.engine_id))
    if signed.digest != state.canary.manifest:
        raise RefusedError(
            f"{state.canary.engine_id}: its manifest is not the one that is rolled out; abort the rollout"
        )
    return signed.manifest


def _last_evidence(history: RolloutHistory, state: RolloutState) -> str | None:
    """That of the last step of a rollout that was decided by evidence."""
    steps = [one.step for one in history.steps if one.step.rollout is not None and one.step.rollout.id == state.id]
    return next((step.evidence for step in reversed(steps) if step.evidence is not None), None)


class Judging:
    """One rollout as the judge has seen it so far; `look` reads what came since."""

    def __init__(self, registry: Registry, address: RolloutAddress, state: RolloutState, make_judge: MakeJudge) -> None:
        manifest = canary_manifest(registry, state)
        self._registry, self._address, self.rollout = registry, address, state.id
        self._shelf = EvidenceShelf(registry, address)
        outputs = {name: declared.as_output_spec() for name, declared in manifest.outputs.items()}
        self._outputs, self._judge = outputs, make_judge(rules_of(state, manifest), outputs)
        self._tally, self._worst = Tally(), WorstPairs()
        self._files: list[EvidenceFile] = []
        self._listed: tuple[str | None, int] = (None, 0)  # a list that was written, and how many files it has
        self._refused: dict[str, RefusedFile] = {}
        self._seen: set[str] = set()
        self._early: set[str] = set()

    def look(self, history: RolloutHistory, state: RolloutState) -> Look:
        """Read the files that came since the last look, in a fixed order, and decide.

        Whoever looks for the first time begins with the files of the last step, in their order: so that who judges, and
        how often they were started, decides nothing.

        Raises:
            RefusedError: the evidence of the last step is missing, or was changed.
        """
        stages = stages_of(history, state)
        if not self._seen:
            self._begin_with(_last_evidence(history, state), stages)
        listed = self._registry.objects.list(self._address.shards(state.id))
        new = [entry for entry in listed if entry.key not in self._seen]
        self.take([(entry.key, None) for entry in in_order(new)], stages)
        return self.decided()

    def _begin_with(self, digest: str | None, stages: Stages) -> None:
        if digest is None:
            return
        files = self._shelf.read(digest).files
        known = self._shelf.files(files)
        if not self.take([(file.key, file.digest) for file in known], stages):
            self._listed = (files, len(known))

    def write_evidence(self, look: Look) -> str:
        """Write what a look rests on; return the digest that a step holds.

        Raises:
            RefusedError: something else lies there.
        """
        earlier, count = self._listed
        files = self._shelf.write_files(earlier, look.files[count:])
        self._listed = (files, len(look.files))
        evidence = look.evidence(self._address, self.rollout)
        return self._shelf.write(evidence.model_copy(update={"files": files}))

    def take(self, files: Sequence[tuple[str, str | None]], stages: Stages) -> list[RefusedFile]:
        """Use files in this order, each of which must have the digest beside it, if any; return those refused."""

        def read(file: tuple[str, str | None]) -> Shard | RefusedFile:
            return read_shard(self._registry.objects, file[0], self._outputs, stages, file[1])

        refused = []
        for start in range(0, len(files), BATCH):  # a few threads read, and what they read does not pile up
            batch = files[start : start + BATCH]
            for (key, digest), shard in zip(batch, in_threads(read, batch), strict=True):
                refused += self._take(key, digest, shard, stages)
        return refused

    def _take(self, key: str, digest: str | None, shard: Shard | RefusedFile, stages: Stages) -> list[RefusedFile]:
        self._seen.add(key)
        if isinstance(shard, RefusedFile):
            if shard.is_early and digest is None and key not in self._early:
                self._early.add(key)  # the next look knows its step, or refuses it
                self._seen.discard(key)
            else:
                self._refused[key] = shard
            return [shard]
        self._files.append(EvidenceFile(key=key, digest=shard.digest))
        self._feed(shard, stages)
        return []

    def decided(self) -> Look:
        """What the judge says of what it has seen."""
        refused = tuple(self._refused.values())
        decision = with_crashes(self._judge.look(), self._tally.crashes)
        return Look(decision, self._tally, tuple(self._files), refused, self._worst.sentences)

    def _feed(self, shard: Shard, stages: Stages) -> None:
        if isinstance(shard, ArmShard):
            self._count(shard, stages)
            return
        noise = shard.columns["noise"]
        if noise.any():
            self._judge.add_noise(pairs_of(shard, noise))
        if not noise.all():
            self._judge.add(pairs_of(shard, ~noise))
            self._worst.add(shard, ~noise)
        self._tally.latest = max(self._tally.latest, float(shard.columns["time"].max()))
        groups = shard.groups
        for step in set(shard.columns["step"][~noise].tolist()):
            of_step = groups[(shard.columns["step"] == step) & ~noise]
            self._tally.groups.setdefault(stages[step], set()).update(of_step.tolist())

    def _count(self, shard: ArmShard, stages: Stages) -> None:
        document = shard.document
        self._judge.count("production", counts_of(document.arms.production))
        self._judge.count("canary", counts_of(document.arms.canary))
        tally, arms = self._tally, document.arms
        tally.canary[stages[document.step]] += arms.canary.requests
        tally.requests[document.step] += arms.production.requests + arms.canary.requests
        tally.warm_up += arms.production.warm_up + arms.canary.warm_up
        tally.lost_pairs += document.lost_pairs
        tally.latest = max(tally.latest, document.to)
        if arms.canary.crashed is not None:
            host = shard.key.split("/")[-2]
            tally.crashes.setdefault(host, printable(arms.canary.crashed))


def rules_of(state: RolloutState, manifest: EngineManifest) -> RolloutRules:
    """What the judge judges a rollout by."""
    plan = state.plan
    return RolloutRules(
        rules=tuple(rule.as_rule() for rule in judged_rules(plan, manifest)),
        latency=plan.latency.limits,
        errors=plan.errors,
        confidence=plan.confidence,
    )


def pairs_of(shard: PairShard, rows: Array) -> Pairs:
    """Some rows of a shard, as the judge takes them."""

    def chosen(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: array[rows] for name, array in arrays.items()}

    columns = chosen(shard.columns)
    return Pairs(
        reference=chosen(shard.production),
        candidate=chosen(shard.canary),
        slices=chosen(shard.slices),
        groups=shard.groups[rows],
        latency_ms=(columns["latency.production"], columns["latency.canary"]),
        failed=columns["failed"] != "",
    )


def counts_of(arm: Arm) -> ArmCounts:
    """An arm as the judge takes it."""
    histogram = Histogram(edges=arm.latency_ms.edges, counts=arm.latency_ms.counts)
    return ArmCounts(requests=arm.requests, errors=arm.errors, timeouts=arm.timeouts, latency=histogram)
