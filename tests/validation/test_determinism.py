"""The same bytes in, the same verdict out, on one core or two."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def judge_with(threads: int) -> bytes:
    environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "validation" / "judged.py")]
    return subprocess.run(command, env=environment, capture_output=True, check=True).stdout


def test_the_number_of_threads_changes_no_byte() -> None:
    one = judge_with(1)
    assert judge_with(2) == one
    verdict, result = json.loads(one)
    assert verdict["outcome"] in {"fail", "inconclusive", "pass"}
    assert len(result["measurements"]) > 50
