from __future__ import annotations

import pytest

from tasks.errors import StageError
from tasks.graphs.onnx_files import REASON_LENGTH, short_reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("bad node at /tmp/x1/model.onnx: 0x7f00\nmore"), "ValueError: bad node at …: …"),
        (RuntimeError(), "RuntimeError: "),
        (StageError("/usr/bin/cc did not end\n    | Traceback"), "… did not end"),
        (StageError("x" * 900), "x" * REASON_LENGTH),
    ],
)
def test_a_reason_is_one_line_without_details_of_the_host(error: Exception, reason: str) -> None:
    assert short_reason(error) == reason
