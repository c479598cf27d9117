"""Child entries: what TensorRT-RTX makes of graphs. It must not be in the process of a stand-in for TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx.parser

from tasks.backends import trt_rtx
from tasks.backends.interface import BuildJob
from tasks.backends.trt_build import build_plans
from tasks.backends.trt_log import TrtLog
from tasks.backends.trt_refit import changed_weights, network_of, weights_of
from tasks.backends.trt_unsupported import unsupported_nodes
from tasks.declared import Frozen
from tasks.errors import EnginegateError

if TYPE_CHECKING:
    from collections.abc import Callable


class Bodies(Frozen):
    """Models as text that onnx.parser reads, by name; and a folder to write them to."""

    models: dict[str, str]
    folder: Path


class Refusals(Frozen):
    """Of each model, what is refused, for people."""

    found: dict[str, tuple[str, ...]]


class Builds(Frozen):
    """Builds to do one after the other, by name."""

    jobs: dict[str, BuildJob]


class Built(Frozen):
    """Of each build the sizes of its files in bytes, its warnings, the shares of progress told, and why it failed."""

    sizes: dict[str, dict[str, int]]
    warnings: dict[str, tuple[str, ...]]
    progress: dict[str, tuple[float, ...]]
    failed: dict[str, str]


class Versions(Frozen):
    """Pairs of ONNX files, by name."""

    pairs: dict[str, tuple[Path, Path]]


class Differences(Frozen):
    """Of each pair, where the weights of the networks differ, as `layer role`; every place is in both."""

    found: dict[str, tuple[str, ...]]


def refuse(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> Refusals:
    """Serve Bodies."""
    request, trt = Bodies.model_validate(raw), trt_rtx.import_rtx()
    found = {}
    for name, text in request.models.items():
        file = request.folder / f"{name}.onnx"
        onnx.save(onnx.parser.parse_model(text), file)
        found[name] = tuple(str(node) for node in unsupported_nodes(trt, TrtLog(trt), file))
    return Refusals(found=found)


def build(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> Built:
    """Serve Builds."""
    request, trt = Builds.model_validate(raw), trt_rtx.import_rtx()
    sizes, warnings, progress, failed = {}, {}, {}, {}
    for name, job in request.jobs.items():
        shares: list[float] = []
        try:
            warnings[name] = build_plans(trt, job, lambda done, total, told=shares: told.append(done / total))  # type: ignore[misc]
        except EnginegateError as error:
            failed[name] = str(error)
            continue
        sizes[name] = {file.name: file.stat().st_size for file in sorted(job.plan.iterdir())}
        progress[name] = tuple(shares)
    return Built(sizes=sizes, warnings=warnings, progress=progress, failed=failed)


def differ(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> Differences:
    """Serve Versions."""
    request, trt = Versions.model_validate(raw), trt_rtx.import_rtx()
    found = {}
    for name, pair in request.pairs.items():
        networks = [network_of(trt, TrtLog(trt), file) for file in pair]
        places = changed_weights(*(weights_of(trt, network) for network in networks))
        found[name] = tuple(sorted(" ".join(place) for place in places))
    return Differences(found=found)
