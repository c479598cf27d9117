"""A serving host follows a rollout: its canary beside production, its weight in the route, and out again at the end.

Each look reads the newest signed step, which carries the whole state, and makes the host so, by one rename of
`route.json`. What stands in the way leaves production to everybody; a registry that cannot be read leaves all as it is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from tasks.declared import Digest, Frozen
from tasks.errors import RefusedError, printable
from tasks.objects.files import writing_to
from tasks.records import LONGEST_REASON
from tasks.registry.chained import holds_record
from tasks.release.canary_engine import CanaryBeside, CanaryError, bring_up_canary, remove_canary
from tasks.release.evidence_upload import WATCH
from tasks.serving.python_models.pairs import arms_document, empty_arms, write_arms
from tasks.serving.route import RoutedRollout
from tasks.serving.triton_api import TritonError, UnreachableError
from tasks.store.digests import canonical_json

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutAddress, RolloutHistory, RolloutState
    from tasks.release.triton_switch import TritonSwitch
    from tasks.serving.route import Route

STEP_FILE, EVIDENCE = "rollout.json", "rollout"
MOST_ENDS = 2
"""A server that ended so often while a canary was loaded was ended by it."""


class FollowedStep(Frozen):
    """The step that a host followed last, and what became of its canary here.

    `crashed` is why the canary of rollout `tried` cannot answer here, and `ends` how often the server ended meanwhile.
    """

    schema_version: Literal[1] = 1
    number: int
    step: Digest
    tried: str | None = None
    crashed: str | None = None
    ends: int = 0


@dataclass(frozen=True)
class Followed:
    """What a look found and did.

    `rollout` is the id of the one that is open, and `step` its number; `weight` and `mirror` what this host does of it,
    0 where `note` says why it does nothing. `canary` is the engine's id. `changed` says whether the route did.
    """

    rollout: str | None = None
    step: int | None = None
    canary: str | None = None
    weight: float = 0.0
    mirror: float = 0.0
    note: str | None = None
    crashed: bool = False
    changed: bool = False


class RolloutFollower:
    """Follows the rollouts of a model for a target at a Triton server."""

    def __init__(
        self, switch: TritonSwitch, address: RolloutAddress, wait_s: float, arm_from: str | None = None
    ) -> None:
        """Follow at the server of `switch`; a pull into its folder is waited for, up to `wait_s` seconds.

        `arm_from` names the parameter or forwarded header by which a splitter outside says who answers.
        """
        self._switch, self.address, self._wait_s, self._arm = switch, address, wait_s, arm_from
        self._repository = switch.repository

    @property
    def evidence(self) -> Path:
        """Below it is a folder for each rollout, with what its router saw."""
        return self._repository.state / EVIDENCE

    def look(self, registry: Registry) -> Followed:
        """Read the newest step, and make this host so.

        Raises:
            RefusedError: the history cannot be trusted, or was rewound; the host goes on as it was.
            StageError: registry, disk or server fail; the same.
        """
        history = registry.rollouts.read(self.address)
        with self._switch.folder.held(self._wait_s), writing_to(self._repository.state):
            before = self._read_followed()
            self._require_history(history, before)
            if history.steps:
                followed = FollowedStep(number=len(history.steps), step=history.steps[-1].digest)
                self._write(
                    followed
                    if before is None
                    else before.model_copy(update={"number": followed.number, "step": followed.step})
                )
            return self._make_so(registry, history)

    def _make_so(self, registry: Registry, history: RolloutHistory) -> Followed:
        state, route = history.open_rollout, self._repository.read_route()
        if route is None:
            return Followed(note=None if state is None else "waits until production is served")
        if state is None:
            return Followed(changed=self._take_out(route))
        found = Followed(rollout=state.id, step=len(history.steps), canary=state.canary.engine_id)
        note, crashed = self._why_not(state, route)
        if note is None:
            try:
                return self._lead(registry, state, route, found)
            except CanaryError as error:
                note, crashed = self._crash(state, found.step or 0, str(error)), True
        changed = self._take_out(self._repository.read_route() or route)
        return Followed(found.rollout, found.step, found.canary, note=note, crashed=crashed, changed=changed)

    def _why_not(self, state: RolloutState, route: Route) -> tuple[str | None, bool]:
        """Why this host does nothing of an open rollout, and whether its canary crashed here."""
        followed = self._read_followed()
        if followed is not None and followed.tried == state.id and followed.crashed is not None:
            return followed.crashed, True
        if route.manifest != state.production.manifest:
            return f"this host serves {route.words}, and the rollout is beside {state.production.engine_id}", False
        if self._switch.api is None:
            return "a rollout needs the server: give --server", False
        return None, False

    def _lead(self, registry: Registry, state: RolloutState, route: Route, found: Followed) -> Followed:
        wanted = self._rollout_of(registry, state, route, found.step or 0)
        with writing_to(self._repository.root):
            changed = self._repository.put_route(route.following(wanted))
        return Followed(found.rollout, found.step, found.canary, wanted.weight, wanted.mirror, changed=changed)

    def _rollout_of(self, registry: Registry, state: RolloutState, route: Route, step: int) -> RoutedRollout:
        now = route.rollout
        if now is not None and (now.id, now.canary.manifest) == (state.id, state.canary.manifest):
            self._require_loaded(now)
            asked = {
                "step": step, "weight": state.weight, "mirror": state.mirror, "noise": state.plan.noise,
                "arm": self._arm,
            }  # fmt: skip
            return now.model_copy(update=asked)
        beside = self._bring_up(registry, state, route)
        return RoutedRollout(
            id=state.id,
            step=step,
            weight=state.weight,
            mirror=state.mirror,
            noise=state.plan.noise,
            key=state.plan.key,
            slices=state.plan.slices,
            folder=str(self.evidence / state.id),
            timeout_ms=beside.timeout_ms,
            keep_inputs=beside.keep_inputs,
            canary=beside.canary,
            arm=self._arm,
        )

    def _bring_up(self, registry: Registry, state: RolloutState, route: Route) -> CanaryBeside:
        try:
            return bring_up_canary(registry, self._switch, state, route)
        except UnreachableError:
            if self._switch.api is not None and not self._switch.api.answers():
                self._note_end(state)
            raise

    def _note_end(self, state: RolloutState) -> None:
        """Count that the server ended while the canary was loaded."""
        followed = self._read_followed()
        if followed is None:
            return
        ends = 1 + (followed.ends if followed.tried == state.id else 0)
        self._write(followed.model_copy(update={"tried": state.id, "crashed": None, "ends": ends}))
        if ends >= MOST_ENDS:
            raise CanaryError(f"the server ended {ends} times while {state.canary.engine_id} was loaded")

    def _require_loaded(self, now: RoutedRollout) -> None:
        """Load the canary's models again where a server was started without them.

        Raises:
            CanaryError: they do not load any more.
        """
        api = self._switch.api
        for plan in now.canary.plans if api is not None else ():
            if api is not None and not api.is_ready(plan.model):
                try:
                    api.load(plan.model)
                except TritonError as error:
                    raise CanaryError(str(error)) from None

    def _crash(self, state: RolloutState, step: int, why: str) -> str:
        """Write down, as evidence against the canary, why it cannot answer here; it is tried no more."""
        why, now = printable(why)[:LONGEST_REASON], time.time()
        arms = empty_arms()
        arms["canary"]["crashed"] = why
        write_arms(self.evidence / state.id, WATCH, now, arms_document(step, now, now, arms, 0))
        followed = self._read_followed()
        if followed is not None:
            self._write(followed.model_copy(update={"tried": state.id, "crashed": why}))
        return why

    def _take_out(self, route: Route) -> bool:
        """Lead everybody to production, then unload what is left of a canary; whether anybody was led elsewhere."""
        alone = route.following(None)
        with writing_to(self._repository.root):
            changed = self._repository.put_route(alone)
        if any(name not in alone.models for name in self._repository.engines()):
            self._switch.retire(alone)
        remove_canary(self._switch)
        return changed

    def _require_history(self, history: RolloutHistory, before: FollowedStep | None) -> None:
        if before is not None and not holds_record(history.steps, before.number, before.step):
            raise RefusedError(
                f"rollout {self.address}: its history was rewound: step {before.number}, which this host followed, is"
                f" no longer in it ({len(history.steps)} steps); find out who did that. To accept it on purpose, remove"
                f" {self._repository.state / STEP_FILE}"
            )

    def _read_followed(self) -> FollowedStep | None:
        path = self._repository.state / STEP_FILE
        try:
            return FollowedStep.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise RefusedError(
                f"{path} is damaged, so that nothing says whether the rollout was rewound; look at `enginegate rollout"
                " history` and, if all is well there, remove the file"
            ) from None

    def _write(self, followed: FollowedStep) -> None:
        if self._read_followed() != followed:
            self._repository.put_state(STEP_FILE, canonical_json(followed.model_dump(mode="json")))
