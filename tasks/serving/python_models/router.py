"""The model that clients ask: it calls the plans of the engine that `route.json` names, in the same server.

Triton runs it, as `1/model.py` of the model with the public name. A switch of engines replaces `route.json` beside
`config.pbtxt`, which is looked at before each call; the router itself stays.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from tasks.serving import sampling
    from tasks.serving.python_models import routing
else:
    from . import routing, sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUTE_FILE = "route.json"
TELL_EVERY_S = 1.0
# A call of a metric costs a message between two processes: counts are gathered, and told together.
COUNTERS = {
    "requests": "Requests answered, by plan",
    "calls": "Calls of a plan, by the samples in them (the next power of two)",
    "elements": "Elements of inputs that plans were called with",
    "padding": "Of them, those that were added as padding",
    "errors": "Requests that were answered with an error, by what was at fault",
    "sampled": "Samples that the reservoir took, of which later ones may take the place",
    "sampling_errors": "Samples or shards that could not be kept or written",
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What Triton's own `/metrics` tells of the router, as `enginegate_*`."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._families = {
            name: pb_utils.MetricFamily(
                name=f"enginegate_{name}_total", description=text, kind=pb_utils.MetricFamily.COUNTER
            )
            for name, text in COUNTERS.items()
        }
        gauges = pb_utils.MetricFamily(
            name="enginegate_route_move",
            description="Number of the channel's move that is served",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._families["route_move"] = gauges
        self._move = gauges.Metric(labels={"model": model})
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._counted: Counter[tuple[str, Labels]] = Counter()
        self._told = 0.0

    def count(self, name: str, number: int = 1, **labels: str) -> None:
        """Count, to be told later."""
        self._counted[name, tuple(labels.items())] += number

    def show_move(self, move: int) -> None:
        """Show which move is served."""
        self._move.set(move)

    def tell(self, *, at_once: bool = False) -> None:
        """Tell the server what was counted, unless that was done in this second."""
        if not at_once and time.monotonic() - self._told < TELL_EVERY_S:
            return
        for (name, labels), number in self._counted.items():
            if (name, labels) not in self._metrics:
                every = {"model": self._model, **dict(labels)}
                self._metrics[name, labels] = self._families[name].Metric(labels=every)
            self._metrics[name, labels].increment(number)
        self._counted.clear()
        self._told = time.monotonic()


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
        self._metrics = Metrics(args["model_name"])
        self._sampler: sampling.Sampler | None = None
        self._seen: tuple[int, int, int] | None = None
        try:
            self._look()
        except (OSError, ValueError, KeyError) as error:
            raise pb_utils.TritonModelException(f"{self._file}: no route to serve ({error}); pull the model") from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer what Triton batched: a response for each request, an error for those alone that are at fault."""
        try:
            self._look()
        except (OSError, ValueError, KeyError) as error:  # what was read before goes on serving
            pb_utils.Logger.log_error(f"{self._file}: cannot be read ({error}); move {self._route.move} goes on")
        responses: list[Any] = [None] * len(requests)
        taken = []
        for number, request in enumerate(requests):
            try:
                taken.append(self._route.request(number, self._arrays(request)))
            except routing.RequestError as error:
                responses[number] = self._refuse(str(error), "request")
        self._answer(taken, responses, again=True)
        self._sample(requests, taken, responses)
        self._metrics.tell()
        return [response for response, _ in responses]

    def finalize(self) -> None:
        """Write what the reservoir holds."""
        if self._sampler is not None:
            self._metrics.count("sampling_errors", self._sampler.close())
        self._metrics.tell(at_once=True)

    def _look(self) -> bool:
        """Read the route where it was replaced; whether it was."""
        status = self._file.stat()
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return False
        route = routing.Route.read(self._file)
        if self._seen is None or route.sampling != self._route.sampling:
            if self._sampler is not None:
                self._sampler.close()
            self._sampler = (
                None
                if route.sampling is None
                else sampling.Sampler.of_route(route.sampling, self._instance, self._instances)
            )
        self._route, self._seen = route, seen
        self._metrics.show_move(route.move)
        return True

    def _arrays(self, request: Any) -> routing.Arrays:
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._route.inputs}

    def _refuse(self, text: str, fault: str) -> tuple[Any, bool]:
        self._metrics.count("errors", fault=fault)
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(text)), False

    def _answer(self, taken: Sequence[routing.Request], responses: list[Any], *, again: bool) -> None:
        groups, problems = self._route.groups(taken)
        for number, text in problems.items():
            responses[number] = self._refuse(text, "request")
        for group in groups:
            feeds = self._route.feeds(group)
            outputs, problem = self._call(group.plan.model, feeds)
            if problem is None:
                self._count(group, feeds)
                for one, part in zip(group.requests, self._route.split(group, outputs), strict=True):
                    tensors = [pb_utils.Tensor(name, array) for name, array in part.items()]
                    responses[one.number] = (pb_utils.InferenceResponse(output_tensors=tensors), True)
            elif again and self._moved_from(group.plan.model):
                self._answer(group.requests, responses, again=False)
            else:
                for one in group.requests:
                    responses[one.number] = self._refuse(f"{group.plan.model}: {problem}", "engine")

    def _moved_from(self, model: str) -> bool:
        """Whether another engine is served by now: the one that was called may be gone for that reason."""
        try:
            self._look()
        except (OSError, ValueError, KeyError):
            return False
        return all(plan.model != model for plan in self._route.plans)

    def _call(self, model: str, feeds: routing.Arrays) -> tuple[routing.Arrays, str | None]:
        names = list(self._route.outputs)
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

    def _count(self, group: routing.Group, feeds: routing.Arrays) -> None:
        plan, samples = group.plan.model, group.extents[self._route.batch]
        elements = sum(array.size for array in feeds.values())
        asked = sum(one.arrays[name].size for one in group.requests for name in feeds)
        self._metrics.count("requests", len(group.requests), plan=plan)
        self._metrics.count("calls", plan=plan, samples=str(1 << (samples - 1).bit_length()))
        self._metrics.count("elements", elements, plan=plan)
        self._metrics.count("padding", elements - asked, plan=plan)

    def _sample(self, requests: Sequence[Any], taken: Sequence[routing.Request], responses: Sequence[Any]) -> None:
        warm_up, self._warm_up = self._warm_up, max(0, self._warm_up - len(requests))
        if self._sampler is None or warm_up:
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
