"""Writes the files of a run into a folder: policy, verdict and outcome as JSON, tables, figures, the summary."""

from __future__ import annotations

import json
from collections import defaultdict
from math import isfinite
from typing import TYPE_CHECKING, Any

from tasks.rule_view import JudgedRule, deciding_words, judged_rules
from tasks.tracking.figures import Pairs, draw_agreement, draw_distribution, draw_error_by_slice
from tasks.tracking.paired_samples import OF_CONFIDENCE, Key, PairSample, annotate, sample_pairs
from tasks.tracking.rule_figure import draw_rules
from tasks.tracking.run_content import (
    LAYERS,
    RULES,
    WORST_SAMPLES,
    outcome_document,
    safe_name,
    scrub,
    without_host_paths,
)
from validation.outputs import OutputKind, OutputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from tasks.records import EngineOutcome
    from tasks.tracking.interface import EngineRecord
    from validation.breakdowns import SliceError
    from validation.comparison import ComparisonResult

SHARE_DIGITS = 4
_DRAWN = {OutputKind.SCORE: "", **dict.fromkeys(OF_CONFIDENCE, ", top-1 confidence")}
# What the figures of a confidence must not quote: these metrics are of the raw numbers.
_OF_RAW_NUMBERS = frozenset({"mae", "max_abs"})


def write_engine_files(record: EngineRecord, outputs: Mapping[str, OutputSpec], folder: Path) -> None:
    """Write an engine's files below `folder`: those that its outcome has the content for."""
    outcome = record.outcome
    document = scrub(outcome_document(outcome))
    _write_json(folder / "outcome.json", document)
    for part in ("policy", "verdict"):
        if document[part] is not None:
            _write_json(folder / f"{part}.json", document[part])
    if outcome.reason:
        (folder / "reason.txt").write_text(f"{document['reason']}\n", encoding="utf-8")
    if record.layers is not None:
        _write_json(folder / LAYERS, layer_table(json.loads(record.layers.read_bytes())))
    for name, tactics in record.tactics.items():
        _write_json(folder / "tactics" / f"{name}.json", scrub(json.loads(tactics.read_bytes())))
    (folder / "figures").mkdir()
    if outcome.verdict is not None:
        rules = judged_rules(outcome.verdict)
        _write_json(folder / RULES, rule_table(rules))
        _save(draw_rules(outcome.cell.engine_id, rules), folder / "figures" / "rules.png")
    if outcome.compared is not None:
        _write_comparison(record, outcome.compared.comparison, outputs, folder)


def _write_comparison(
    record: EngineRecord, comparison: ComparisonResult, outputs: Mapping[str, OutputSpec], folder: Path
) -> None:
    if comparison.worst:
        _write_json(folder / WORST_SAMPLES, worst_table(comparison, record.annotations))
    _draw_outputs(record, comparison, outputs, folder / "figures")
    _draw_slices(record.outcome.cell.engine_id, comparison, folder / "figures")


def _write_json(path: Path, document: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def rule_table(rules: Sequence[JudgedRule]) -> dict[str, list[Any]]:
    """The rules, the worst first, in the layout that MLflow's page shows as a table; numbers as in `worst_table`."""
    columns = ["output", "metric", "slice", "group", "estimate", "low", "high", "limit", "n", "needed", "verdict"]
    data = [
        [
            *(_shown(part) for part in (rule.output, rule.metric, rule.slice, rule.group)),
            *(_shown(number) for number in (rule.value, rule.low, rule.high, rule.limit)),
            *(rule.n, rule.needed, rule.outcome.value, _shown(rule.sentence)),
        ]
        for rule in rules
    ]
    return {"columns": [*columns, "sentence"], "data": data}


def worst_table(comparison: ComparisonResult, annotations: Path) -> dict[str, list[Any]]:
    """The worst samples, with their label and slices, in the layout that MLflow's page shows as a table.

    Values have six significant digits, so that they fit its columns; `outcome.json` has them in full.
    """
    notes = annotate(comparison.worst, annotations)
    extra = sorted({name for note in notes.values() for name in note})
    columns = ["index", "output", "column", "reference", "candidate", "abs_error"]
    data = [
        [_shown(value) for value in (*(getattr(worst, name) for name in columns), *map(notes[worst.index].get, extra))]
        for worst in comparison.worst
    ]
    return {"columns": columns + extra, "data": data}


def layer_table(layers: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The layers of an engine in their order, with the share of each in their time, as MLflow's page shows a table."""
    whole = sum(layer["time_ms"] for layer in layers) or 1.0
    columns = ["layer", "kind", "time_ms", "share", "formats", "tactic"]
    data = [
        [
            scrub(layer["name"]),
            layer["kind"],
            _shown(layer["time_ms"]),
            round(layer["time_ms"] / whole, SHARE_DIGITS),
            layer["formats"],
            layer["tactic"],
        ]
        for layer in layers
    ]
    return {"columns": columns, "data": data}


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    return scrub(value)


def _draw_outputs(
    record: EngineRecord, comparison: ComparisonResult, outputs: Mapping[str, OutputSpec], folder: Path
) -> None:
    for key, sample in sample_pairs(record, outputs).items():
        output, column = key
        pairs = _pairs(record.outcome.cell.engine_id, key, sample, outputs[output], comparison)
        stem = output if column is None else f"{output}.{column}"
        _save(draw_distribution(pairs), folder / f"{stem}.distribution.png")
        _save(draw_agreement(pairs), folder / f"{stem}.agreement.png")


def _pairs(engine_id: str, key: Key, sample: PairSample, spec: OutputSpec, comparison: ComparisonResult) -> Pairs:
    output, column = key
    drawn = _DRAWN.get(spec.kind, ", elements")
    padding = "" if spec.mask is None else ", padding included"
    measured = {m.metric: m.value for m in comparison.measurements if (m.output, m.column, m.slice) == (*key, None)}
    if spec.kind in OF_CONFIDENCE:
        measured = {name: value for name, value in measured.items() if name not in _OF_RAW_NUMBERS}
    return Pairs(
        engine_id=engine_id,
        name=f"{output}{'' if column is None else f'[{column}]'}{drawn}{padding}",
        reference=sample.reference,
        candidate=sample.candidate,
        seen=sample.seen,
        left_out=sample.left_out,
        low=spec.low,
        high=spec.high,
        metrics=measured,
    )


def _draw_slices(engine_id: str, comparison: ComparisonResult, folder: Path) -> None:
    groups: dict[tuple[str, str], list[SliceError]] = defaultdict(list)
    for error in comparison.slices:
        groups[error.output, error.slice].append(error)
    for (output, name), errors in groups.items():
        mean = sum(error.mae * error.n for error in errors) / sum(error.n for error in errors)
        figure = draw_error_by_slice(engine_id, errors, mean)
        _save(figure, folder / f"{safe_name(f'{output}.error_by_{name}')}.png")


def _save(figure: Figure, path: Path) -> None:
    # No metadata: the same data give the same bytes, whatever matplotlib draws them.
    figure.savefig(path, metadata={"Software": None})


def summary_list(outcomes: Sequence[EngineOutcome]) -> str:
    """A Markdown list of all engines, for the narrow column in which MLflow's page shows a description."""
    return "\n".join(
        f"- **{outcome.outcome.value}** {outcome.cell.engine_id}: {_worst(outcome)}"
        f"{'' if outcome.benchmark is None else f', p50 {outcome.benchmark.headline.p50_ms:.2f} ms'}"
        for outcome in outcomes
    )


def summary_table(outcomes: Sequence[EngineOutcome]) -> str:
    """A Markdown table of all engines of a conversion."""
    lines = [
        "| engine | verdict | worst rule | p50 (ms) | speed-up | size (MB) | digest |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    return "\n".join([*lines, *(_summary_row(outcome) for outcome in outcomes)]) + "\n"


def _worst(outcome: EngineOutcome) -> str:
    """What decided, in a few words, or why nothing did; on one line, and without what ends a table's cell."""
    text = outcome.reason if outcome.verdict is None else deciding_words(outcome.verdict)
    return without_host_paths(" ".join(text.split()).replace("|", "/"))


def _summary_row(outcome: EngineOutcome) -> str:
    p50, speedup, size, digest = "", "", "", ""
    if outcome.engine is not None:
        size = f"{outcome.engine.plan.size_bytes / 1e6:.2f}"
        digest = f"`{outcome.engine.plan.digest[:19]}`"
    if outcome.benchmark is not None:
        headline = outcome.benchmark.headline
        p50 = f"{headline.p50_ms:.2f} (batch {headline.batch})"
        ratio = outcome.benchmark.headline_speedup
        speedup = "" if ratio is None else f"{ratio:.2f}x"
    cells = (outcome.cell.engine_id, outcome.outcome.value, _worst(outcome), p50, speedup, size, digest)
    return f"| {' | '.join(cells)} |"
