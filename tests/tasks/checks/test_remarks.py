from __future__ import annotations

from tasks.checks.remarks import Level, Remark, stops_of
from tasks.errors import ExitCode, InputError, RefusedError


def test_each_mistake_that_an_error_lists_is_a_remark_with_its_further_lines() -> None:
    error = InputError(
        "model.yaml: weights: w.safetensors is not for this module; save the weights that the source builds:\n"
        "  missing: layers.4.bias [3]\n"
        "  unexpected: layers.4.scale [3]\n"
        "validation.data: a.npz: x is float64, model.yaml says float32; convert one of them\n"
        "because of that\n"
        "policy.yaml: rules: there are none"
    )
    remarks = stops_of("data", error)
    assert [remark.text.partition(":")[0] for remark in remarks] == ["model.yaml", "validation.data", "policy.yaml"]
    assert remarks[0].text.endswith("unexpected: layers.4.scale [3]")
    assert remarks[1].text.endswith("because of that")
    assert {(remark.level, remark.code) for remark in remarks} == {(Level.STOP, ExitCode.BAD_INPUT)}


def test_a_refusal_is_one_remark_that_keeps_its_exit_code() -> None:
    message = "calibration set x: 1 of 2 files differ:\na.npz: expected 1, is 2"
    assert stops_of("calibration", RefusedError(message)) == (
        Remark("calibration", Level.STOP, message, ExitCode.REFUSED),
    )
