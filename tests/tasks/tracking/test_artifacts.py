"""What the figures of an engine are told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from tasks.tracking import artifacts
from tests.tasks.tracking.conftest import OUTPUTS
from validation.outputs import OutputKind, OutputSpec

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tasks.tracking.figures import Pairs
    from tests.tasks.tracking.conftest import Case


def _drawn(case: Case, outputs: dict[str, OutputSpec], tmp_path: Path, patch: pytest.MonkeyPatch) -> dict[str, Pairs]:
    found: dict[str, Pairs] = {}

    def draw(pairs: Pairs) -> Figure:
        found[pairs.name] = pairs
        return Figure()

    patch.setattr(artifacts, "draw_agreement", draw)
    patch.setattr(artifacts, "_save", lambda _figure, _path: None)
    artifacts.write_engine_files(case.engine("fp16"), outputs, tmp_path)
    return found


def test_figures_quote_the_metrics_of_all_samples(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = case.engine("fp16").outcome.compared
    assert compared
    pairs = _drawn(case, OUTPUTS, tmp_path, monkeypatch)
    assert list(pairs) == ["score", "traits[0]", "traits[1]", "traits[2]"]
    for name, key in {"score": ("score", None), "traits[1]": ("traits", 1)}.items():
        whole = {
            m.metric: m.value for m in compared.comparison.measurements if (m.output, m.column, m.slice) == (*key, None)
        }
        assert pairs[name].metrics == whole


def test_an_output_with_a_mask_says_that_its_padding_is_drawn(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = replace(OUTPUTS["traits"], kind=OutputKind.TENSOR, mask="attention_mask")
    pairs = _drawn(case, OUTPUTS | {"traits": masked}, tmp_path, monkeypatch)
    assert list(pairs) == ["score", "traits, elements, padding included"]


def test_tactics_become_files_of_the_run(case: Case, tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text('{"tactics": [{"layer": "MatMul", "kernel": "gemm"}]}')
    (tmp_path / "run").mkdir()
    record = replace(case.failed_engine("int8", "wrong"), tactics={"miscompiled-1": tmp_path / "kept.json"})
    artifacts.write_engine_files(record, {}, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "tactics" / "miscompiled-1.json").read_text())
    assert written == {"tactics": [{"layer": "MatMul", "kernel": "gemm"}]}
