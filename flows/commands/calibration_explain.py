"""`enginegate calibration explain`: which layers of an INT8 engine hurt most."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, command_of, model_option
from flows.conversion.calibration_sets import take_data
from flows.conversion.checked_calibration import read_calibration
from flows.conversion.conversion_plan import plan_conversion
from flows.stage import run_stage
from tasks.errors import EnginegateError, InputError
from tasks.model.documents import read_yaml
from tasks.model.model_directory import SPEC_FILE, ModelDirectory, read_model_directory
from tasks.quantization.sensitivity import LayerSensitivity, Sensitivity, measure_sensitivity
from tasks.records import Cell
from tasks.specs import Precision
from tasks.stages.export import export_onnx

if TYPE_CHECKING:
    from flows.session import Session

DEEPEST = 3
"""Folders below the current one in which a model directory is looked for."""
MOST_ROWS = 30


@click.command()
@click.argument("engine_id")
@click.option("--figure", type=FilledPath(), metavar="FILE", help="Also draw the ranking, as PNG.")
@model_option("the one here or below whose name the engine has")
@command_of
def explain(session: Session, engine_id: str, figure: Path | None, model: Path | None) -> tuple[Document, int]:
    """Rank the layers of an INT8 engine by what quantizing each of them alone does to the outputs.

    The engine need not be registered, but its model directory must be as it was when the engine was made.
    """
    sensitivity = explain_engine(session, engine_id, figure, model)
    return sensitivity.model_dump(mode="json"), 0


def explain_engine(session: Session, engine_id: str, figure: Path | None, model: Path | None) -> Sensitivity:
    """Rank the layers of an INT8 engine, print the ranking, and draw it into `figure`.

    Raises:
        InputError: it is no INT8 engine, or its model directory is not found or makes another version now.
    """
    cell = Cell.parse(engine_id)
    if cell.precision is not Precision.INT8:
        raise InputError(
            f"{engine_id}: is {cell.precision.value}; layers are ranked, and left out, of int8 engines alone"
        )
    directory = _directory_of(cell, model)
    _require_version(session, cell, directory)
    _require_place(figure)
    spec = directory.spec
    data = take_data(session, "validation data", spec, directory.validation, "validation.data")
    _, calibration = read_calibration(session, directory)
    exported = run_stage(session, "export", export_onnx, lambda _: "the reference as ONNX", directory, data)
    found = run_stage(
        session,
        "sensitivity",
        measure_sensitivity,
        lambda sensitivity: f"{len(sensitivity.layers)} layers on {sensitivity.samples:,} samples",
        exported,
        spec,
        calibration,
        data,
    )
    session.reporter.say("")
    session.reporter.table(
        ["", "layer", "kind", "loss", "worst rule", "value", "limit"],
        [_row(n, layer) for n, layer in enumerate(found.layers[:MOST_ROWS], 1)],
    )
    session.reporter.say("loss: the share used up of what INT8's default limits allow, with this layer alone in INT8")
    if figure is not None:
        from tasks.quantization.sensitivity_figure import draw_sensitivity  # noqa: PLC0415 - matplotlib takes a second

        draw_sensitivity(found, figure)
        session.reporter.say(f"drawn to {figure}")
    return found


def _require_version(session: Session, cell: Cell, directory: ModelDirectory) -> None:
    plan = plan_conversion(directory, floor=session.policy_floor)
    made = [one.engine_id for one in plan.cells if one.precision is Precision.INT8]
    if cell.engine_id not in made:
        raise InputError(
            f"{cell.engine_id}: model directory {directory.root.name} makes {', '.join(made) or 'no int8 engine'} now;"
            " go back to the files that the engine was made of, or name an engine that they make"
        )


def _require_place(figure: Path | None) -> None:
    if figure is not None and (figure.is_dir() or not figure.absolute().parent.is_dir()):
        raise InputError(f"--figure {figure}: is a folder, or lies in none; name a file in a folder that is there")


def _row(number: int, layer: LayerSensitivity) -> list[str]:
    rule = layer.worst
    named = "-" if rule is None else f"{rule.output} {rule.metric}"
    value = "-" if rule is None or rule.value is None else f"{rule.value:.4g}"
    limit = "-" if rule is None else f"{rule.limit:g}"
    return [
        str(number),
        layer.node,
        layer.op_type,
        "∞" if layer.loss is None else f"{layer.loss:.3g}",
        named,
        value,
        limit,
    ]


def _directory_of(cell: Cell, model: Path | None) -> ModelDirectory:
    if model is not None:
        return read_model_directory(model)
    found = [folder for folder in _model_folders(Path()) if _name_in(folder) == cell.model]
    if len(found) != 1:
        seen = f"{len(found)} model directories are" if found else "no model directory is"
        raise InputError(f"{cell.engine_id}: {seen} called {cell.model} here and below; name it with --model")
    return read_model_directory(found[0])


def _model_folders(root: Path) -> list[Path]:
    return [
        file.parent for depth in range(DEEPEST + 1) for file in sorted(root.glob("/".join(["*"] * depth + [SPEC_FILE])))
    ]


def _name_in(folder: Path) -> object:
    try:
        return read_yaml(folder / SPEC_FILE).get("name")
    except EnginegateError:
        return None
