"""What stands outside and follows a rollout: a splitter's share, and the objects by which Argo and Flagger ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tasks.registry.steps import RolloutStatus

if TYPE_CHECKING:
    from tasks.registry.rollouts import RolloutHistory
    from tasks.registry.steps import RolloutAddress

Document = dict[str, Any]

ASKED_EVERY = "30s"
# Argo ends a measurement that is neither success nor failure as inconclusive, and the run after so many of them.
_UNDECIDED = 1_000_000
# Nothing that goes wrong on the way to the gate is an answer of it.
_UNREACHABLE = 1_000_000


def share_outside(history: RolloutHistory) -> float:
    """Percent of the traffic that the newest signed step gives to the canary; 0 once the rollout has ended.

    A rollout that finished gives it nothing more, either: production's own servers have its engine by then.
    """
    state = history.open_rollout
    return 0.0 if state is None else state.weight


def knative_share(history: RolloutHistory) -> float | None:
    """Percent for the newest revision, which serves the canary; None where it is production's, which gets all.

    A rollout that was taken back leaves the canary's revision the newest, at 0: a file for production would give that
    revision all traffic until the pods of another are ready.
    """
    state = None if history.current is None else history.current.rollout
    if state is None or state.status is RolloutStatus.FINISHED:
        return None
    return share_outside(history)


def finished_alone(status: RolloutStatus | None) -> bool:
    """Whether an outside controller may go on to all of the traffic: of all ends, a pass alone."""
    return status is RolloutStatus.FINISHED


def argo_template(address: RolloutAddress, engine_id: str, gate: str) -> Document:
    """An AnalysisTemplate (argoproj.io/v1alpha1, Argo Rollouts 1.8) that waits for the judge of this engine.

    It has no `count`: at its end Argo takes what was never decided for a success.
    """
    metric = {
        "name": "enginegate",
        "interval": ASKED_EVERY,
        "successCondition": 'result == "pass"',
        "failureCondition": 'result == "fail"',
        "failureLimit": 0,
        "consecutiveSuccessLimit": 1,
        "inconclusiveLimit": _UNDECIDED,
        "consecutiveErrorLimit": _UNREACHABLE,
        "provider": {"web": {"url": _url(gate, address, engine_id), "jsonPath": "{$.outcome}", "timeoutSeconds": 20}},
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": _metadata(address),
        "spec": {"metrics": [metric]},
    }


def flagger_canary(address: RolloutAddress, engine_id: str, gate: str) -> Document:
    """A Canary (flagger.app/v1beta1) of the Deployment `MODEL-TARGET`: promoted when the judge has passed it.

    Flagger has one step of its own, of 1 %: it goes there when the judge is past `shadow`, and from there to all when
    the judge has finished.
    """
    webhooks = [
        {"name": name, "type": kind, "url": _url(gate, address, engine_id, question)}
        for name, kind, question in (
            ("enginegate steps", "confirm-traffic-increase", "/increase"),
            ("enginegate passes", "confirm-promotion", ""),
            ("enginegate fails", "rollback", "/rollback"),
        )
    ]
    return {
        "apiVersion": "flagger.app/v1beta1",
        "kind": "Canary",
        "metadata": _metadata(address),
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": _name(address)},
            "service": {"port": 80, "targetPort": 8080},
            "analysis": {
                "interval": ASKED_EVERY,
                # Flagger goes back after so many failed checks: no answer is none.
                "threshold": _UNREACHABLE,
                "stepWeights": [1],
                "webhooks": [{**each, "timeout": "20s"} for each in webhooks],
            },
        },
    }


def _url(gate: str, address: RolloutAddress, engine_id: str, question: str = "") -> str:
    return f"{gate.rstrip('/')}/{address.model}/{address.target}{question}?engine={quote(engine_id)}"


def _name(address: RolloutAddress) -> str:
    return f"{address.model}-{address.target}".replace(".", "-")


def _metadata(address: RolloutAddress) -> Document:
    labels = {"app.kubernetes.io/managed-by": "enginegate", "enginegate/model": address.model}
    return {"name": _name(address), "labels": {**labels, "enginegate/target": address.target}}
