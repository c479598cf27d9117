from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks.errors import InputError
from tasks.model.policy_floor import OrganisationFloor, read_floor
from validation.outputs import OutputKind, OutputSpec
from validation.policy import default_policy

if TYPE_CHECKING:
    from pathlib import Path

FLOOR = "rules: [{metric: mae, max: 0.02, of_range: true}]\n"


def read(folder: Path, text: str) -> OrganisationFloor:
    (folder / "floor.yaml").write_text(text)
    return read_floor(folder / "floor.yaml")


def test_the_digest_is_of_what_is_asked_for_and_not_of_how_it_is_written(tmp_path: Path) -> None:
    digest = read(tmp_path, FLOOR).digest
    assert read(tmp_path, "# ours\nrules:\n- {of_range: true, max: 2.0e-2, metric: mae}\n").digest == digest
    assert read(tmp_path, FLOOR + "min_samples: 1\n").digest != digest


def test_an_output_without_the_range_that_a_rule_is_a_share_of_is_bad_input(tmp_path: Path) -> None:
    outputs = {"score": OutputSpec(kind=OutputKind.SCORE)}
    with pytest.raises(InputError, match="output score declares none; give it its range"):
        read(tmp_path, FLOOR).tighten(default_policy(outputs, "fp16"), outputs)


@pytest.mark.parametrize("text", ["", "[]", "rules: [{metric: mae}]", "confidence: 2", "a: &a [*a]", "{"])
def test_a_file_that_is_no_floor_is_bad_input_with_the_setting_s_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"^ENGINEGATE_POLICY_FLOOR: floor\.yaml: "):
        read(tmp_path, text)


def test_a_file_that_is_missing_is_bad_input_with_the_setting_s_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^ENGINEGATE_POLICY_FLOOR: floor\.yaml: cannot be read: No such file"):
        read_floor(tmp_path / "floor.yaml")
