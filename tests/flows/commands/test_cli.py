from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from flows.commands.calibration_commands import COMMANDS as OF_CALIBRATION
from flows.commands.calibration_commands import calibration
from flows.commands.cli import COMMANDS, main
from flows.commands.export_commands import EXPORTS, export

if TYPE_CHECKING:
    from flows.commands.lazy_group import Row

ROOT = Path(__file__).resolve().parents[3]
ALL_HELPS = f"""
import click
from flows.commands.calibration_commands import calibration
from flows.commands.cli import main
from flows.commands.export_commands import export
for group, names in ((main, {list(COMMANDS)}), (calibration, {list(OF_CALIBRATION)}), (export, {list(EXPORTS)})):
    for command in (group.get_command(None, name) for name in names):
        command.get_help(click.Context(command))
"""


def imported_by(code: str, modules: set[str]) -> str:
    """Those of `modules` that a process imports which runs `code`."""
    code = f"import sys\n{code}\nprint(*sorted({modules} & sys.modules.keys()), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stderr.strip()


def test_the_help_imports_nothing_that_takes_long() -> None:
    heavy = {"pydantic", "numpy", "rich", "yaml", "onnx", "scipy", "prefect", "mlflow", "torch", "matplotlib"}
    code = "from flows.commands.cli import main\nmain(['--help'], standalone_mode=False)"
    assert imported_by(code, heavy) == ""


def test_the_help_of_no_command_waits_for_prefect_mlflow_or_torch() -> None:
    assert imported_by(ALL_HELPS, {"prefect", "mlflow", "torch", "boto3", "matplotlib"}) == ""


@pytest.mark.parametrize(("group", "table"), [(main, COMMANDS), (calibration, OF_CALIBRATION), (export, EXPORTS)])
def test_each_row_leads_to_its_command_and_its_help_fits_a_line(group: click.Group, table: dict[str, Row]) -> None:
    widest = max(map(len, table))
    for name, row in table.items():
        command = group.get_command(click.Context(group), name)
        assert command is not None
        assert command.name == name
        assert widest + len(row.help) + len("    ") < 80


def test_a_name_that_is_no_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["convrt"])
    assert result.exit_code == 2
    assert "No such command 'convrt'" in result.output


def test_json_may_stand_before_the_command_as_it_may_after(tmp_path: Path) -> None:
    for arguments in (["--json", "check", str(tmp_path)], ["check", str(tmp_path), "--json"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert json.loads(result.stdout)["ok"] is False
