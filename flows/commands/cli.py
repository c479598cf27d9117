"""The command line: which commands there are, where they lie, and what the help says of them."""

from __future__ import annotations

import click

from flows.commands.lazy_group import AS_JSON, LazyGroup, Row

COMMANDS = {
    "import": Row("flows.commands.import_command:import_", "Make a model directory of a source and of data."),
    "convert": Row("flows.commands.convert_command:convert", "Make the engines of a model directory, and judge them."),
    "check": Row("flows.commands.check_command:check", "Say what would stop or spoil a conversion."),
    "plan": Row("flows.commands.plan_command:plan", "Say which models a push changed, and what that takes."),
    "convert-commit": Row("flows.commands.commit_commands:convert_commit", "Convert the models that a commit changed."),
    "runs": Row("flows.commands.commit_commands:runs", "List the conversions that commits asked for."),
    "submit": Row("flows.commands.submit_command:submit", "Send a push to Prefect, whose worker converts it."),
    "gate": Row("flows.commands.gate_command:gate", "Judge outputs in files against those of the reference."),
    "calibration": Row("flows.commands.calibration_commands:calibration", "Check, draw and explain calibration sets."),
    "engines": Row("flows.commands.engine_commands:engines", "List the registered engines; `gc` removes loose ones."),
    "verify": Row("flows.commands.engine_commands:verify", "Re-read engines: signatures, digests and verdicts."),
    "promote": Row("flows.commands.promotion_commands:promote", "Move a channel to an engine, step by step."),
    "rollback": Row("flows.commands.promotion_commands:rollback", "Return a channel to the engine before."),
    "history": Row("flows.commands.promotion_commands:history", "Show every move of a model's channels."),
    "rollout": Row("flows.commands.rollout_commands:rollout", "Bring a canary to all traffic, judged on live pairs."),
    "upgrade": Row(
        "flows.commands.upgrade_command:upgrade", "Make a channel's engines again with this host's toolchain."
    ),
    "resign": Row("flows.commands.resign_command:resign", "Sign anew what a withdrawn key signed."),
    "pull": Row("flows.commands.pull_command:pull", "Fetch the engine of a channel to the host that serves it."),
    "serve": Row("flows.commands.serve_command:serve", "Serve the engine of a channel with Triton, on this machine."),
    "export": Row("flows.commands.export_commands:export", "Write files for what serves engines elsewhere: KServe."),
    "doctor": Row("flows.commands.doctor:doctor", "Say what this host can do, and what it lacks."),
}


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="enginegate")
@click.option("--json", "as_json", is_flag=True, help="As after the command: print one JSON document.")
@click.pass_context
def main(context: click.Context, *, as_json: bool) -> None:
    """Turn PyTorch models into inference engines, and let only those that match their reference into the registry.

    Exit codes: 0 done or pass, 2 bad input or usage, 3 verdict fail, 4 verdict inconclusive, 5 refused (signature,
    digest, compatibility, conflict), 1 anything unexpected.
    """
    context.meta[AS_JSON] = as_json


if __name__ == "__main__":
    main()
