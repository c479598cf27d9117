"""Decides every step of a rollout again, from the files that it says it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import EnginegateError
from tasks.registry.steps import StepKind
from tasks.rollout.choosing import PROMOTED
from tasks.rollout.evidence_list import EvidenceShelf
from tasks.rollout.judging import Judging, stages_of
from validation.rollout_records import JUDGE_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutHistory
    from tasks.registry.steps import RolloutState, RolloutStep
    from tasks.rollout.evidence_list import Evidence, EvidenceFile
    from validation.rollout_records import MakeJudge

_NEEDS = {StepKind.ADVANCE: "pass", StepKind.FINISH: "pass", StepKind.ROLLBACK: "fail"}


@dataclass(frozen=True)
class Verified:
    """A step that rests on evidence: how many files and pairs, and where it does not follow from them.

    `note` says why the decision could not be made again, where its files are whole all the same.
    """

    step: RolloutStep
    files: int
    pairs: int
    faults: tuple[str, ...]
    note: str | None = None


class Verifier:
    """Verifies the steps of one history, oldest first; files that a later step names again are read once."""

    def __init__(self, registry: Registry, make_judge: MakeJudge) -> None:
        self._registry, self._make_judge = registry, make_judge
        self._judging: Judging | None = None
        self._used: tuple[EvidenceFile, ...] = ()
        self._shelf: EvidenceShelf | None = None

    def verify(self, history: RolloutHistory, on_progress: Callable[[int, int], None]) -> list[Verified]:
        """Decide each step again that rests on evidence.

        `on_progress` is told how many of them are done, and how many there are.
        """
        with_evidence = [one.step for one in history.steps if one.step.evidence is not None]
        found = []
        for done, step in enumerate(with_evidence, start=1):
            found.append(self._verify(history, step))
            on_progress(done, len(with_evidence))
        return found

    def _verify(self, history: RolloutHistory, step: RolloutStep) -> Verified:
        assert step.evidence is not None  # noqa: S101 - of such steps alone
        shelf = self._shelf = self._shelf or EvidenceShelf(self._registry, history.address)
        try:
            evidence = shelf.read(step.evidence)
            files = shelf.files(evidence.files)
            faults, note = self._decide_again(history, step, evidence, files), None
            if evidence.judge != JUDGE_VERSION:
                note = f"was decided by version {evidence.judge} of the judge, and this release has {JUDGE_VERSION}"
        except EnginegateError as error:
            self._judging = None
            return Verified(step, 0, 0, (str(error),))
        return Verified(step, len(files), evidence.pairs, tuple(faults), note)

    def _decide_again(
        self, history: RolloutHistory, step: RolloutStep, evidence: Evidence, files: tuple[EvidenceFile, ...]
    ) -> list[str]:
        state = step.rollout
        if state is None or (evidence.model, evidence.target, evidence.rollout) != (step.model, step.target, state.id):
            return ["its evidence is that of another rollout"]
        faults = self._feed(history, step, state, files)
        if self._judging is None or faults or evidence.judge != JUDGE_VERSION:
            return faults
        look = self._judging.decided()
        outcome = look.decision.outcome.value
        if outcome != evidence.outcome:
            faults.append(f"its evidence says {outcome}, and {evidence.outcome} is written")
        elif look.sentences != evidence.sentences:
            faults.append("its evidence gives other numbers than are written")
        needed = _NEEDS.get(step.kind)
        undecided = step.kind is StepKind.ROLLBACK and state.plan.undecided == "rollback" and outcome == "inconclusive"
        finished = step.kind is StepKind.FINISH and step.reason == PROMOTED
        if needed is not None and outcome != needed and not undecided and not finished:
            faults.append(f"`{step.kind.value}` needs {needed}, and its evidence says {outcome}")
        return faults

    def _feed(
        self, history: RolloutHistory, step: RolloutStep, state: RolloutState, files: tuple[EvidenceFile, ...]
    ) -> list[str]:
        known = self._judging is not None and self._judging.rollout == state.id
        if not known or files[: len(self._used)] != self._used:
            self._judging, self._used = Judging(self._registry, history.address, state, self._make_judge), ()
        assert self._judging is not None  # noqa: S101 - made above
        stages = {number: stage for number, stage in stages_of(history, state).items() if number < step.number}
        new = [(file.key, str(file.digest)) for file in files[len(self._used) :]]
        faults = [f"{refused.key} {refused.why}" for refused in self._judging.take(new, stages)]
        self._used = files
        if faults:
            self._judging = None
        return faults
