from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tasks.errors import InputError
from tasks.torch_side.torch_returned import left_out, refuse_other_count, take_outputs

ONE, TWO = torch.zeros(3), torch.zeros(3, 2)
Pair = namedtuple("Pair", "hidden score")  # noqa: PYI024 - what modules return


@dataclass
class Output:
    """What a module may return."""

    hidden: torch.Tensor
    score: torch.Tensor
    past_key_values: object = None


@pytest.mark.parametrize(
    "returned",
    [
        {"hidden": TWO, "score": ONE, "loss": None},
        OrderedDict(loss=None, score=ONE),
        Output(TWO, ONE, object()),
        Pair(TWO, ONE),
        (ONE, None),
        [ONE],
        ONE,
        {"logits": ONE, "past_key_values": object(), "loss": None},
    ],
)
def test_outputs_are_taken_by_name_or_else_in_their_order(returned: Any) -> None:
    (found,) = take_outputs(returned, ["score"])
    assert found is ONE
    refuse_other_count(returned, (found,), ["score"])


def test_what_is_not_declared_is_told_with_what_it_is() -> None:
    assert left_out(Output(TWO, ONE), ["score"]) == ("hidden [3, 2]", "past_key_values (NoneType)")
    assert left_out((ONE,), ["score"]) == ()


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ((ONE, TWO), r"returns 2 outputs without names, but 1 are declared \(score\); .* or return a dict"),
        ({"hidden": TWO, "logits": ONE}, r"outputs.score: .* nothing of that name, but hidden \[3, 2\], logits \[3\]"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_with_its_names(returned: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        refuse_other_count(returned, take_outputs(returned, ["score"]), ["score"])
