"""The model that clients ask: it calls the plans of the engine that `route.json` names, in the same server.

Triton runs it, as `1/model.py` of the model with the public name. A switch of engines replaces `route.json` beside
`config.pbtxt`, which is looked at before each call; the router itself stays. While a rollout is on, `arms` says whom
its canary answers.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from tasks.serving import sampling
    from tasks.serving.python_models import arms, router_metrics, routing, splitting
else:
    from . import arms, router_metrics, routing, sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUTE_FILE = "route.json"
UNREADABLE = (OSError, ValueError, KeyError, TypeError)


class TritonPythonModel:
    """What Triton's Python backend loads."""

    _route: routing.Route

    def initialize(self, args: dict[str, str]) -> None:
        """Read the route; a router without one does not load."""
        config = json.loads(args["model_config"])
        self._file = Path(args["model_repository"]) / ROUTE_FILE
        self._instance = args["model_instance_name"]
        self._instances = max(1, sum(group.get("count", 1) for group in config.get("instance_group", [])))
        # Triton runs its warm-up before any request of a client: it is no traffic.
        self._warm_up = sum(
            max(1, one.get("count", 1)) * max(1, one.get("batch_size", 1)) for one in config.get("model_warmup", [])
        )
        self._metrics = router_metrics.Metrics(args["model_name"])
        self._arms = arms.Arms(self._instance, self._instances, _call, self._metrics.count, pb_utils.Logger.log_warn)
        self._sampler: sampling.Sampler | None = None
        self._seen: tuple[int, int, int] | None = None
        self._looking = threading.RLock()  # threads that answer in a canary's place look too
        try:
            self._look()
        except UNREADABLE as error:
            raise pb_utils.TritonModelException(f"{self._file}: no route to serve ({error}); pull the model") from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer what Triton batched: a response for each request, an error for those alone that are at fault.

        What a canary is to answer has None for a response: it is sent when it comes.
        """
        try:
            self._look()
        except UNREADABLE as error:  # what was read before goes on serving
            pb_utils.Logger.log_error(f"{self._file}: cannot be read ({error}); move {self._route.move} goes on")
        responses: list[Any] = [None] * len(requests)
        taken = []
        for number, request in enumerate(requests):
            try:
                taken.append(self._route.request(number, self._arrays(request)))
            except routing.RequestError as error:
                responses[number] = self._refuse(str(error), "request")
        warm_up, self._warm_up = self._warm_up, max(0, self._warm_up - len(requests))
        if warm_up:
            self._arms.note_warm_up(len(taken))
        if self._arms.rollout is None or warm_up:
            self._answer(taken, responses)
        else:
            self._answer_by_arms(requests, taken, responses)
        if not warm_up:
            self._sample(requests, taken, responses)
        self._metrics.tell()
        return [response for response, _ in responses]

    def finalize(self) -> None:
        """Write what the reservoir holds, and what was seen of a rollout."""
        if self._sampler is not None:
            self._metrics.count("sampling_errors", self._sampler.close())
        self._arms.close()
        self._metrics.tell(at_once=True)

    def _look(self) -> None:
        """Read the route where it was replaced."""
        status = self._file.stat()
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return
        with self._looking:
            route = routing.Route.read(self._file)
            if self._seen is None or route.sampling != self._route.sampling:
                self._sample_for(route)
            self._follow(route)
            self._route, self._seen = route, seen
            self._metrics.show("route_move", route.move)

    def _sample_for(self, route: routing.Route) -> None:
        if self._sampler is not None:
            self._sampler.close()
        self._sampler = (
            None
            if route.sampling is None
            else sampling.Sampler.of_route(route.sampling, self._instance, self._instances)
        )

    def _follow(self, route: routing.Route) -> None:
        try:
            self._arms.follow(route)
        except (ValueError, KeyError, TypeError) as error:  # production is served whatever a rollout is like
            pb_utils.Logger.log_error(f"{self._file}: its rollout cannot be followed ({error!r})")
            self._arms.follow(replace(route, rollout=None))
        rollout = self._arms.rollout
        self._metrics.show("rollout_step", 0 if rollout is None else rollout.step)
        self._metrics.show("rollout_weight", 0 if rollout is None else rollout.weight)

    def _arrays(self, request: Any) -> routing.Arrays:
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._route.inputs}

    def _refuse(self, text: str, fault: str) -> tuple[Any, bool]:
        self._metrics.count("errors", fault=fault)
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(text)), False

    def _answer_by_arms(self, requests: Sequence[Any], taken: Sequence[routing.Request], responses: list[Any]) -> None:
        rollout = self._arms.rollout
        assert rollout is not None  # noqa: S101 - there is one, and only this thread and its calls change that
        askers = {one.number: rollout.asker(requests[one.number]) for one in taken}
        own, waits = [], []
        for one in taken:
            if rollout.takes(askers[one.number]):
                waits.append(self._ask_canary(requests[one.number], one, askers[one.number], responses))
            else:
                own.append(one)
        self._answer(own, responses, askers=askers)
        for wait in waits:
            wait()
        self._arms.mirror(self._route)

    def _ask_canary(
        self, request: Any, one: routing.Request, asker: splitting.Asker, responses: list[Any]
    ) -> Callable[[], object]:
        """Have the canary answer, or production in its place; what to wait with where no answer can be sent later."""
        kept = replace(one, arrays={name: array.copy() for name, array in one.arrays.items()})
        answered = threading.Event()
        try:
            send = _sender_of(request)
        except pb_utils.TritonModelException:  # an older Triton takes answers from `execute` alone
            send = None
        responses[one.number] = (None, True)

        def answer(outputs: routing.Arrays | None) -> None:
            found = {one.number: (None, False)}
            if outputs is None:
                self._answer([kept], found)
            else:
                found[one.number] = _response(outputs), True
                self._metrics.count("requests", plan="canary")
            if send is None:
                responses[one.number] = found[one.number]
                answered.set()
            else:
                send(found[one.number][0])

        self._arms.ask_canary(asker, kept.arrays, answer)
        return answered.wait if send is None else lambda: None

    def _answer(
        self,
        taken: Sequence[routing.Request],
        responses: Any,
        *,
        askers: dict[int, splitting.Asker] | None = None,
        again: bool = True,
    ) -> None:
        """Have production answer; `responses` get theirs by number. A rollout is told of the calls of `askers`."""
        route = self._route
        groups, problems = route.groups(taken)
        for number, text in problems.items():
            responses[number] = self._refuse(text, "request")
        for group in groups:
            feeds, began = route.feeds(group), time.monotonic()
            outputs, problem = _call(group.plan.model, list(route.outputs), feeds)
            ms = 1000 * (time.monotonic() - began)
            if problem is not None and again and self._moved_from(group.plan.model):
                self._answer(group.requests, responses, askers=askers, again=False)
                continue
            parts = route.split(group, outputs) if problem is None else None
            for place, one in enumerate(group.requests):
                responses[one.number] = (
                    self._refuse(f"{group.plan.model}: {problem}", "engine")
                    if parts is None
                    else (_response(parts[place]), True)
                )
            if parts is not None:
                self._count(route, group, feeds)
            if askers is not None:
                self._arms.note_call(askers, group, parts, ms)

    def _moved_from(self, model: str) -> bool:
        """Whether another engine is served by now: the one that was called may be gone for that reason."""
        try:
            self._look()
        except UNREADABLE:
            return False
        return all(plan.model != model for plan in self._route.plans)

    def _count(self, route: routing.Route, group: routing.Group, feeds: routing.Arrays) -> None:
        plan, samples = group.plan.model, group.extents[route.batch]
        elements = sum(array.size for array in feeds.values())
        asked = sum(one.arrays[name].size for one in group.requests for name in feeds)
        self._metrics.count("requests", len(group.requests), plan=plan)
        self._metrics.count("calls", plan=plan, samples=str(1 << (samples - 1).bit_length()))
        self._metrics.count("elements", elements, plan=plan)
        self._metrics.count("padding", elements - asked, plan=plan)

    def _sample(self, requests: Sequence[Any], taken: Sequence[routing.Request], responses: Sequence[Any]) -> None:
        if self._arms.rollout is not None:
            self._metrics.count("rollout_writing_errors", self._arms.failures())
        if self._sampler is None:
            return
        for one in taken:
            if responses[one.number][1]:
                try:
                    found = self._sampler.offer(one.arrays, json.loads(requests[one.number].parameters() or "{}"))
                    self._metrics.count("sampled", found)
                except Exception as error:  # noqa: BLE001 - whatever the sampler meets, its request was answered
                    self._metrics.count("sampling_errors")
                    pb_utils.Logger.log_warn(f"a request was not sampled: {error}")
        self._metrics.count("sampling_errors", self._sampler.failures())


def _response(outputs: routing.Arrays) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])


def _sender_of(request: Any) -> Callable[[Any], object]:
    sender = request.get_response_sender()
    return lambda response: sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _call(model: str, names: Sequence[str], feeds: routing.Arrays) -> tuple[routing.Arrays, str | None]:
    """The outputs of a model, or what went wrong."""
    try:
        response = pb_utils.InferenceRequest(
            model_name=model,
            requested_output_names=names,
            inputs=[pb_utils.Tensor(name, array) for name, array in feeds.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
    except pb_utils.TritonModelException as error:
        return {}, str(error)
    if response.has_error():
        return {}, str(response.error().message())
    return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in names}, None
