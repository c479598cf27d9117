"""The flow that carries a rollout on, with a person in the loop where its plan asks for one.

It may be started again anywhere: what it knows lies in the registry. While it waits for an answer in Prefect's page the
run is paused in its process, as that of `promote` is, and a thread goes on judging: a canary that fails is rolled back
whether somebody answers or not. Each step is an event, `enginegate.rollout.<kind>`, and the end is the run's state:
completed, or failed under the name `RolledBack` or `Aborted`, which automations can tell apart.
"""

from __future__ import annotations

import contextvars
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout, Pause
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from prefect.states import Completed, Failed
from pydantic import Field

from flows.promotion.promote_flow import HOUR_S, POLL_S, FilledLine, Line, escaped_text, require_lasting_registry
from flows.rollout.rollout_report import outcome_of, told
from flows.session import Session, current_session
from tasks.errors import EnginegateError, InputError, RefusedError, StageError, printable
from tasks.registry.rollouts import RolloutAddress
from tasks.registry.steps import RolloutStatus
from tasks.rollout import transitions
from tasks.rollout.choosing import Action
from tasks.rollout.conducting import Conductor, OvertakenError
from tasks.rollout.transitions import By, missing_approval
from validation import rollout_judge

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from prefect.client.schemas.objects import State

    from tasks.registry.rollouts import RolloutHistory, RolloutStep
    from tasks.registry.steps import RolloutState
    from tasks.rollout.conducting import Conducted

EVERY_S = 30
_ENDS = {
    RolloutStatus.ROLLED_BACK: "RolledBack",
    RolloutStatus.ABORTED: "Aborted",
    RolloutStatus.SUPERSEDED: "Superseded",
}
_NOBODY = "nobody, since it was no longer asked"


class StepApproval(RunInput):
    """What a person answers in Prefect's page.

    `approver` is typed there and not checked: Prefect's open-source server asks nobody who they are.
    """

    approve: Annotated[bool, Field(title="Approve", description="Yes lets it enter the step, no holds it.")]
    approver: Annotated[FilledLine, Field(title="Your name", description="As the plan has it; kept, signed.")]
    reason: Annotated[Line, Field(title="Reason", description="Kept in the history.")] = ""


@flow(name="rollout", flow_run_name="{model} {target}", persist_result=False)
def conduct_rollout(
    model: str,
    target: str,
    every_s: Annotated[int, Field(ge=1, le=HOUR_S)] = EVERY_S,
    wait_s: Annotated[int, Field(ge=1, le=24 * HOUR_S)] = HOUR_S,
) -> State[Any]:
    """Judge a rollout that was started, and carry it on until it ends.

    Args:
        model: the model's name.
        target: where the engines run.
        every_s: seconds between two looks.
        wait_s: how long a form in Prefect's page stands before it is shown anew, in seconds.

    Returns:
        `Completed` where production points at the engine. `Failed`, called `RolledBack`, `Aborted` or `Superseded`,
        where it ended early.

    Raises:
        InputError: a name is none, or nothing was ever rolled out.
        RefusedError: something is damaged, or not signed by a trusted key.
    """
    session = current_session()
    require_lasting_registry(session)
    run = _Run(session, RolloutAddress(model, target))
    while True:
        found = run.look()
        if found is None:
            time.sleep(every_s)
            continue
        if found.history.open_rollout is None:
            return _end_state(found.history)
        if _waits_for_approval(found):
            run.ask(found.history, wait_s, every_s)
        else:
            time.sleep(every_s)


@dataclass
class _Run:
    """One run of the flow: who conducts, and what was told last."""

    session: Session
    address: RolloutAddress
    conductor: Conductor = field(init=False)
    last: int = 0

    def __post_init__(self) -> None:
        self.conductor = Conductor(
            self.session.registry,
            self.address,
            rollout_judge.make_judge,
            who=self.session.settings.actor or "the flow rollout",
            context=self.session.stage_context(),
            rejected=self.session.rejected,
        )

    def look(self) -> Conducted | None:
        """Conduct once, and tell of the steps that are new; None where another one was first, or the store is away."""
        try:
            found = self.conductor.conduct(datetime.now(timezone.utc))
        except (OvertakenError, StageError) as error:
            self.session.reporter.say(f"! {printable(str(error))}")
            return None
        self._tell(found.history)
        return found

    def _tell(self, history: RolloutHistory) -> None:
        steps = [one.step for one in history.steps]
        new = steps[self.last :] if self.last else steps[-1:]
        self.last = len(steps)
        for step in new:
            self.session.reporter.say(f"rollout {self.address}: {told(step)}")
            emit_event(
                event=f"enginegate.rollout.{step.kind.value}",
                resource={
                    "prefect.resource.id": f"enginegate.rollout.{self.address.model}.{self.address.target}",
                    "prefect.resource.name": f"{self.address.model} {self.address.target}",
                },
                payload=_payload(step),
            )
        if new:
            key = f"rollout-{self.address.model}-{self.address.target.replace('.', '-')}"
            create_markdown_artifact(timeline(history), key=key, description=f"Rollouts {self.address}")

    def ask(self, history: RolloutHistory, wait_s: int, every_s: int) -> None:
        """Show a form and wait for its answer, for `wait_s` at most; judging goes on meanwhile."""
        state = history.open_rollout
        assert state is not None  # noqa: S101 - an approval is of one
        with _judging(self, history, every_s):
            try:
                form = StepApproval.with_initial_data(description=timeline(history))
                answer = pause_flow_run(wait_for_input=form, timeout=wait_s, poll_interval=min(POLL_S, wait_s))
            except FlowPauseTimeout:
                return
            except (
                Pause
            ):  # Prefect does not know yet that the run goes on after the last pause: it is asked again later
                time.sleep(every_s)
                return
        if answer.approver != _NOBODY:
            self._take(answer)

    def _take(self, answer: StepApproval) -> None:
        rule: Callable[[RolloutHistory, By], RolloutStep] = transitions.approve if answer.approve else transitions.hold
        reason = "; ".join(filter(None, ("through Prefect", answer.reason.strip())))
        by = By(answer.approver.strip(), datetime.now(timezone.utc), reason=reason)
        try:
            self.session.registry.rollouts.write(self.address, lambda there: rule(there, by))
        except RefusedError as error:  # another name than the plan has, or somebody was faster: it is asked anew
            self.session.reporter.say(f"! {printable(str(error))}")


class _judging:  # noqa: N801 - a context
    """Judges in a thread while the run is paused, and ends the pause where nothing is asked any more."""

    def __init__(self, run: _Run, shown: RolloutHistory, every_s: int) -> None:
        self._run, self._shown, self._every_s = run, len(shown.steps), every_s
        self._done = threading.Event()
        context = FlowRunContext.get()
        assert context is not None  # noqa: S101 - pausing needs one
        assert context.flow_run is not None  # noqa: S101 - as above
        self._id: UUID = context.flow_run.id
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._judge,), daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _judge(self) -> None:
        while not self._done.wait(self._every_s):
            try:
                found = self._run.look()
            except EnginegateError as error:
                self._run.session.reporter.say(f"! {printable(str(error))}")
                continue
            if found is not None and len(found.history.steps) > self._shown:
                answer = {"approve": False, "approver": _NOBODY, "reason": ""}
                resume_flow_run(self._id, run_input=answer)
                return


def _waits_for_approval(found: Conducted) -> bool:
    """Whether nothing but an approval is lacking."""
    lacking = missing_approval(found.history)
    intent = found.intent
    return (
        lacking is not None
        and intent is not None
        and intent.action is Action.WAIT
        and intent.reason == f"passes so far, and {lacking}"
    )


def _end_state(history: RolloutHistory) -> State[Any]:
    state = None if history.current is None else history.current.rollout
    if state is None:
        raise InputError(f"rollout {history.address}: nothing was ever rolled out; `enginegate rollout start` does")
    message = f"{state.canary.engine_id}: {outcome_of(state)[0]}, {state.status.value} at {state.step_name}"
    if state.status is RolloutStatus.FINISHED:
        return Completed(message=message)
    last = history.current
    reason = f": {last.reason}" if last is not None and last.reason else ""
    return Failed(name=_ENDS[state.status], message=f"{message}{reason}")


def _payload(step: RolloutStep) -> dict[str, Any]:
    state: RolloutState | None = step.rollout
    return {
        "kind": step.kind.value,
        "number": step.number,
        "status": None if state is None else state.status.value,
        "weight": None if state is None else state.weight,
        "step": None if state is None else state.step_name,
        "canary": None if state is None else state.canary.engine_id,
        "production": None if state is None else state.production.engine_id,
        "reason": step.reason,
        "who": step.who,
        "when": step.when,
    }


def timeline(history: RolloutHistory) -> str:
    """The last rollout's steps, the newest first, in Markdown: texts of people's make no link and no tag."""
    state = None if history.current is None else history.current.rollout
    lines = [f"## Rollout {history.address}"]
    if state is not None:
        lines.append(f"`{state.canary.engine_id}` beside `{state.production.engine_id}`: {state.status.value}")
    for one in reversed(history.steps):
        if state is None or one.step.rollout is None or one.step.rollout.id != state.id:
            continue
        lines.append(f"- {escaped_text(told(one.step))}")
        lines += [f"    - {escaped_text(line)}" for line in one.step.why]
    return "\n".join([lines[0], "", *lines[1:2], "", *lines[2:]])
