"""What the history of rollouts is made of: steps, each with the whole state, and what each may change of it.

That is a rule of trust: no host ever sees a rollout skip a stage, or come back from its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from tasks.declared import Digest, Frozen
from tasks.errors import InputError
from tasks.records import LONGEST_REASON
from tasks.registry.chained import PART_FILE, Chained, EngineId, Form, Moment, SignedRecord, require_names
from tasks.registry.layout import ROLLOUTS
from tasks.rollout_spec import RolloutPlan

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

MOST_LINES = 60
Line = Annotated[str, Field(max_length=LONGEST_REASON)]
RolloutId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


class StepKind(str, Enum):
    """What a step does."""

    START = "start"
    ADVANCE = "advance"
    HOLD = "hold"
    RESUME = "resume"
    ROLLBACK = "rollback"
    ABORT = "abort"
    FINISH = "finish"
    SUPERSEDE = "supersede"
    APPROVE = "approve"
    FREEZE = "freeze"
    THAW = "thaw"
    RESIGN = "resign"
    """Goes nowhere: another key vouches for what is there."""


class RolloutStatus(str, Enum):
    """How a rollout stands."""

    RUNNING = "running"
    HELD = "held"
    FINISHED = "finished"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"


OPEN = frozenset({RolloutStatus.RUNNING, RolloutStatus.HELD})
"""Those in which hosts split and mirror traffic."""
STAYING = frozenset({StepKind.APPROVE, StepKind.FREEZE, StepKind.THAW, StepKind.RESIGN})
"""The kinds of steps that leave a rollout as it is."""
_MOVES_ON = frozenset({StepKind.START, StepKind.ADVANCE, StepKind.RESUME, StepKind.SUPERSEDE})
LEADS_TO = {
    StepKind.HOLD: RolloutStatus.HELD,
    StepKind.RESUME: RolloutStatus.RUNNING,
    StepKind.ROLLBACK: RolloutStatus.ROLLED_BACK,
    StepKind.ABORT: RolloutStatus.ABORTED,
    StepKind.FINISH: RolloutStatus.FINISHED,
    StepKind.SUPERSEDE: RolloutStatus.SUPERSEDED,
}
"""The status that a kind of step leaves, where it changes that."""
_COMES_FROM = {
    StepKind.ADVANCE: {RolloutStatus.RUNNING},
    StepKind.HOLD: {RolloutStatus.RUNNING},
    StepKind.RESUME: {RolloutStatus.HELD},
    StepKind.FINISH: {RolloutStatus.RUNNING},
    StepKind.APPROVE: OPEN,
    StepKind.ROLLBACK: OPEN,
    StepKind.ABORT: OPEN,
    StepKind.SUPERSEDE: OPEN,
}


@dataclass(frozen=True)
class RolloutAddress:
    """Which history of rollouts is meant: that of a model for a target.

    Raises:
        InputError: the model can have no such name, or there is no such target.
    """

    model: str
    target: str

    def __post_init__(self) -> None:
        require_names(self.model, self.target)

    def __str__(self) -> str:
        return f"of {self.model} for {self.target}"

    @property
    def form(self) -> Form[SignedStep]:
        """That of rollouts."""
        return _FORM

    @property
    def key(self) -> str:
        """`rollouts/<model>/<target>.json`."""
        return f"{self.folder.removesuffix('/')}.json"

    @property
    def folder(self) -> str:
        """`rollouts/<model>/<target>/`: parts of a long history, and evidence."""
        return f"{ROLLOUTS}{self.model}/{self.target}/"

    def part_key(self, digest: str) -> str:
        """`rollouts/<model>/<target>/<SHA-256>.json`, of a part of a long history."""
        return f"{self.folder}{digest.removeprefix('sha256:')}.json"

    def shards(self, rollout: str) -> str:
        """`rollouts/<model>/<target>/<rollout's id>/`: below it `<host>/<file>`, what hosts saw; see `shards`."""
        return f"{self.folder}{rollout}/"

    def evidence_key(self, digest: str) -> str:
        """`rollouts/<model>/<target>/evidence-<SHA-256>.json`: which files a step rests on, in which order."""
        return f"{self.folder}evidence-{digest.removeprefix('sha256:')}.json"

    @classmethod
    def from_key(cls, key: str) -> RolloutAddress | None:
        """That of a history's object; None where it is none's."""
        try:
            model, file = key.removeprefix(ROLLOUTS).split("/")
            address = cls(model, file.removesuffix(".json"))
        except (ValueError, InputError):
            return None
        return address if address.key == key else None

    @classmethod
    def of_part(cls, key: str) -> RolloutAddress | None:
        """That of the history to which an object below `folder` belongs: a part, an evidence or a host's file."""
        try:
            model, target, *rest = key.removeprefix(ROLLOUTS).split("/")
            address = cls(model, target)
        except (ValueError, InputError):
            return None
        is_part = len(rest) == 1 and PART_FILE.fullmatch(rest[0].removeprefix("evidence-"))
        return address if key.startswith(address.folder) and (is_part or len(rest) == _SHARD_PARTS) else None


_SHARD_PARTS = 3


class ServedEngine(Frozen):
    """An engine by its id and the digest of its manifest."""

    engine_id: EngineId
    manifest: Digest


class ProductionEngine(ServedEngine):
    """What the channel `production` pointed at when a rollout began, by the number of its move."""

    move: Annotated[int, Field(ge=1)]


class RolloutState(Frozen):
    """A rollout as it stands: which engines, how far it is, and by which plan.

    `id` is 12 hexadecimal digits of chance, and salts the split. `stage` is the place of its step in the plan's
    `steps`, in which it is since `stage_since` (UTC). `weight` is the percent of the traffic that the canary answers,
    and `mirror` the share of production's requests that it answers too, unseen: both 0 once a rollout has ended.
    """

    id: RolloutId
    production: ProductionEngine
    canary: ServedEngine
    plan: RolloutPlan
    stage: Annotated[int, Field(ge=0)]
    stage_since: Moment
    weight: Annotated[float, Field(ge=0, le=100)]
    mirror: Annotated[float, Field(ge=0, le=1)]
    status: RolloutStatus

    @property
    def is_open(self) -> bool:
        """Whether hosts split and mirror traffic: it runs, or is held where it is."""
        return self.status in OPEN

    @property
    def engines(self) -> frozenset[str]:
        """The ids of the engines that answer in it."""
        return frozenset({self.production.engine_id, self.canary.engine_id})

    @property
    def step_name(self) -> str:
        """`shadow`, or the percent of its step."""
        return self.plan.name(self.stage)

    @model_validator(mode="after")
    def _is_as_planned(self) -> RolloutState:
        if self.stage > self.plan.last:
            raise ValueError("stage: the plan has no such step")
        planned = (self.plan.weight(self.stage), self.plan.mirror) if self.is_open else (0.0, 0.0)
        if (self.weight, self.mirror) != planned:
            raise ValueError("weight, mirror: are not those of its step")
        return self


class RolloutStep(Chained):
    """One step: what it does, how the rollout stands after it, and why.

    `rollout` is None where nothing was ever rolled out, and only a freeze stands. `evidence` is the digest of the
    manifest of what the step was decided by, None where a person decided; `why` are the sentences of that decision, and
    `reason` what the person, or the judge in short, said. Until `frozen_until` (UTC) nothing moves but back.
    """

    schema_version: Literal[1] = 1
    model: str
    target: str
    kind: StepKind
    rollout: RolloutState | None
    evidence: Digest | None = None
    why: Annotated[tuple[Line, ...], Field(max_length=MOST_LINES)] = ()
    reason: Line = ""
    frozen_until: Moment | None = None

    @property
    def address(self) -> RolloutAddress:
        """The history that it belongs to."""
        return RolloutAddress(self.model, self.target)

    def is_frozen(self, now: datetime) -> bool:
        """Whether nothing moves but back after this step."""
        return self.frozen_until is not None and now < datetime.fromisoformat(self.frozen_until)

    @property
    def open_rollout(self) -> RolloutState | None:
        """The rollout that runs or is held after this step; None where none does."""
        return self.rollout if self.rollout is not None and self.rollout.is_open else None


class SignedStep(SignedRecord[RolloutStep]):
    """A step, the digest of its document, and who signed it."""

    @property
    def step(self) -> RolloutStep:
        """The step."""
        return self.record


def _find_fault(last: RolloutStep | None, step: RolloutStep) -> str | None:
    """Why a step may not follow the last one, as what stands behind `step 7`."""
    frozen = None if last is None else last.frozen_until
    if step.kind in _MOVES_ON and frozen is not None and step.when < frozen:
        return f"(`{step.kind.value}`) comes before {frozen}, until when nothing moves"
    if step.frozen_until != frozen and step.kind not in {StepKind.FREEZE, StepKind.THAW}:
        return f"(`{step.kind.value}`) changes a freeze"
    return _find_change(None if last is None else last.rollout, step)


def _find_change(before: RolloutState | None, step: RolloutStep) -> str | None:
    after = step.rollout
    if step.kind in {StepKind.FREEZE, StepKind.THAW, StepKind.RESIGN}:
        return None if after == before else f"(`{step.kind.value}`) changes the rollout"
    if after is None:
        return f"(`{step.kind.value}`) is of no rollout"
    if step.kind is StepKind.START:
        return _find_false_start(before, after)
    if before is None or before.status not in _COMES_FROM[step.kind]:
        return f"(`{step.kind.value}`) is of a rollout that was not {_or(_COMES_FROM[step.kind])}"
    return None if after == _follow(before, step) else f"(`{step.kind.value}`) changes what it may not"


def _find_false_start(before: RolloutState | None, after: RolloutState) -> str | None:
    if before is not None and before.is_open:
        return "(`start`) comes while a rollout is open"
    fresh = after.stage == 0 and after.status is RolloutStatus.RUNNING
    return (
        None
        if fresh and (before is None or before.id != after.id)
        else "(`start`) is not at the beginning of a rollout"
    )


def _follow(before: RolloutState, step: RolloutStep) -> RolloutState:
    """The rollout as such a step leaves it; as it was where there is no stage to go to."""
    if step.kind is StepKind.ADVANCE:
        stage = before.stage + 1
        weight = before.plan.weight(stage) if stage <= before.plan.last else 0.0
        return before.model_copy(update={"stage": stage, "stage_since": step.when, "weight": weight})
    status = LEADS_TO.get(step.kind, before.status)
    ended = {} if status in OPEN else {"weight": 0.0, "mirror": 0.0}
    return before.model_copy(update={"status": status, **ended})


def _or(statuses: AbstractSet[RolloutStatus]) -> str:
    return " or ".join(sorted(status.value for status in statuses))


_FORM = Form("rollout", "step", RolloutStep, SignedStep, _find_fault, "enginegate rollout history")
