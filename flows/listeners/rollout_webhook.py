"""Tells a URL when a rollout was rolled back or aborted, was held, or is finished."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import StageError
from tasks.registry.rollouts import StepKind

if TYPE_CHECKING:
    from flows.settings import Settings
    from tasks.registry.registry import Registry
    from tasks.registry.steps import RolloutStep

TOLD = frozenset({StepKind.ROLLBACK, StepKind.ABORT, StepKind.HOLD, StepKind.FINISH})
LIMIT_S = 10.0


@dataclass(frozen=True)
class RolloutWebhook:
    """ENGINEGATE_ROLLOUT_WEBHOOK, which gets each such step once, as JSON. Nothing is told again."""

    settings: Settings
    registry: Registry
    name: str = "the webhook"

    def hear(self, step: RolloutStep, /) -> None:
        """Post the step.

        Raises:
            StageError: nobody answers there, or not with a success. The message names no part of the URL but its host,
                since the rest is often a secret.
        """
        url = self.settings.rollout_webhook
        if url is None or step.kind not in TOLD:
            return
        request = urllib.request.Request(  # noqa: S310 - settings take http and https alone
            url,
            data=json.dumps(document_of(step)).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "enginegate"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S):  # noqa: S310 - as above
                return
        except urllib.error.HTTPError as error:
            raise StageError(f"{request.host} answered {error.code}; see ENGINEGATE_ROLLOUT_WEBHOOK") from None
        except (OSError, ValueError) as error:
            reason = type(error).__name__ if not isinstance(error, urllib.error.URLError) else error.reason
            raise StageError(f"{request.host} does not answer ({reason}); see ENGINEGATE_ROLLOUT_WEBHOOK") from None


def document_of(step: RolloutStep) -> dict[str, Any]:
    """What the URL gets; `text` is one line for a chat."""
    state = step.rollout
    at = "" if state is None else f" {state.canary.engine_id} at {state.step_name}"
    return {
        "text": f"rollout of {step.model} for {step.target}: {step.kind.value}{at}: {step.reason}",
        "model": step.model,
        "target": step.target,
        "kind": step.kind.value,
        "status": None if state is None else state.status.value,
        "rollout": None if state is None else state.id,
        "canary": None if state is None else state.canary.engine_id,
        "production": None if state is None else state.production.engine_id,
        "step": None if state is None else state.step_name,
        "number": step.number,
        "reason": step.reason,
        "why": list(step.why),
        "evidence": step.evidence,
        "who": step.who,
        "when": step.when,
    }
