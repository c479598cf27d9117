"""`enginegate export`: files for what serves engines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.commands.command import CHANNEL, Document, FilledPath, command_of
from flows.commands.lazy_group import LazyGroup, Row
from tasks.errors import InputError
from tasks.objects.files import writing_to
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.serving.kserve import KServeDeployment, kserve_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from flows.session import Session

EXPORTS = {"kserve": Row("flows.commands.export_commands:kserve", "Write what KServe needs to serve an engine.")}


@click.group(cls=LazyGroup, table=EXPORTS)
def export() -> None:
    """Write files for what serves engines elsewhere."""


def _labels(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Read `key=value` of each."""
    pairs = [text.partition("=") for text in texts]
    for text, (key, sign, _) in zip(texts, pairs, strict=True):
        if not key or not sign:
            raise click.BadParameter(f"{text!r} is no label; give it as key=value.")
    return tuple((key, value) for key, _, value in pairs)


@click.command()
@click.argument("model")
@click.option("--target", required=True, metavar="TARGET", help="What it is served on: cpu, t4, a100, ….")
@click.option("--channel", type=CHANNEL, default="production", show_default=True)
@click.option("--image", required=True, help="An image with Triton, this project and its runtime of the target.")
@click.option("--to", "file", type=FilledPath(), metavar="FILE", help="Left out, it is printed.")
@click.option("--memory", default="8Gi", show_default=True, help="The server's memory, as Kubernetes writes it.")
@click.option("--cpu", default="2", show_default=True, help="The processors it asks for, as Kubernetes writes them.")
@click.option(
    "--node-label",
    "labels",
    multiple=True,
    callback=_labels,
    metavar="KEY=VALUE",
    help="Nodes that may run it; left out, those whose GPU is the target, by the labels of NVIDIA's GPU discovery.",
)
@click.option("--service-account", metavar="NAME", help="Which may read the registry.")
@click.option("--trust-config-map", "trust_map", metavar="NAME", help="Holds the public keys that are trusted.")
@command_of
def kserve(
    session: Session,
    model: str,
    target: str,
    channel: str,
    image: str,
    file: Path | None,
    memory: str,
    cpu: str,
    labels: tuple[tuple[str, str], ...],
    service_account: str | None,
    trust_map: str | None,
) -> tuple[Document, int]:
    """Write a ServingRuntime and an InferenceService that serve what a channel of MODEL points at.

    A pod pulls the engine from ENGINEGATE_REGISTRY, verifies it, and starts Triton on it: an engine of another version
    comes with the next pod. `kubectl apply -f FILE` makes both.
    """
    address = ChannelAddress(model, target, ChannelName(channel))
    settings = session.settings
    if settings.trust is not None and trust_map is None:
        raise InputError(
            "ENGINEGATE_TRUST is set, and pods would verify no signature; put the public keys into a ConfigMap"
            " (kubectl create configmap NAME --from-file=FOLDER), and name it in --trust-config-map"
        )
    text = kserve_yaml(
        KServeDeployment(
            address.model,
            address.target,
            channel,
            settings.registry_address,
            image,
            registry_name=settings.registry_name,
            memory=memory,
            cpu=cpu,
            node_labels=labels,
            service_account=service_account,
            trust_map=trust_map,
        )
    )
    if file is not None:
        with writing_to(file):
            file.write_text(text, encoding="utf-8")
        session.reporter.marked(f"✓ {file}: kubectl apply -f {file}")
    elif not click.get_current_context().params["as_json"]:
        click.echo(text, nl=False)
    return {"file": None if file is None else str(file), "yaml": text}, 0
