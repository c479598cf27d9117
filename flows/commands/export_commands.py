"""`enginegate export`: files for what serves engines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import yaml

from flows.commands.command import CHANNEL, Document, FilledPath, command_of
from flows.commands.lazy_group import LazyGroup, Row
from flows.commands.rollout_steps import rollout_options
from tasks.errors import InputError
from tasks.objects.files import writing_to
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.rollouts import RolloutAddress
from tasks.rollout.outside import argo_template, flagger_canary, knative_share
from tasks.serving.kserve import KServeDeployment, kserve_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from flows.session import Session

_HERE = "flows.commands.export_commands"
EXPORTS = {
    "kserve": Row(f"{_HERE}:kserve", "Write what KServe needs to serve an engine."),
    "argo": Row(f"{_HERE}:argo", "Write Argo's AnalysisTemplate that waits for a rollout's judge."),
    "flagger": Row(f"{_HERE}:flagger", "Write Flagger's Canary that waits for a rollout's judge."),
}


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
@click.option(
    "--rollout", is_flag=True, help="With the share of the rollout that is open: the canary's, by canaryTrafficPercent."
)
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
    rollout: bool,
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
    comes with the next pod. `kubectl apply -f FILE` makes both. With --rollout, written again at each step: of an open
    rollout the new revision serves `canary`, and gets its share of the traffic, none where it was taken back.
    """
    address = ChannelAddress(model, target, ChannelName(channel))
    settings = session.settings
    if settings.trust is not None and trust_map is None:
        raise InputError(
            "ENGINEGATE_TRUST is set, and pods would verify no signature; put the public keys into a ConfigMap"
            " (kubectl create configmap NAME --from-file=FOLDER), and name it in --trust-config-map"
        )
    share = None
    if rollout:
        share = knative_share(session.registry.rollouts.read(RolloutAddress(model, target)))
        channel = (ChannelName.PRODUCTION if share is None else ChannelName.CANARY).value
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
            canary_percent=share,
            is_knative=rollout,
        )
    )
    return _give(session, text, file)


def _give(session: Session, text: str, file: Path | None) -> tuple[Document, int]:
    """Write or print what `kubectl apply` takes."""
    if file is not None:
        with writing_to(file):
            file.write_text(text, encoding="utf-8")
        session.reporter.marked(f"✓ {file}: kubectl apply -f {file}")
    elif not click.get_current_context().params["as_json"]:
        click.echo(text, nl=False)
    return {"file": None if file is None else str(file), "yaml": text}, 0


_GATE = click.option(
    "--gate", required=True, metavar="URL", help="Where `enginegate rollout gate` answers, as the cluster sees it."
)
_FILE = click.option("--to", "file", type=FilledPath(), metavar="FILE", help="Left out, it is printed.")


@click.command()
@rollout_options
@_GATE
@_FILE
@command_of
def argo(session: Session, model: str, target: str, gate: str, file: Path | None) -> tuple[Document, int]:
    """Write an AnalysisTemplate that passes where the rollout of MODEL's canary finished, and fails where it went back.

    Whatever else becomes of it is inconclusive for Argo. Write it again for each engine that `canary` points at.
    """
    document = argo_template(RolloutAddress(model, target), _canary(session, model, target), gate)
    return _give(session, yaml.safe_dump(document, sort_keys=False), file)


@click.command()
@rollout_options
@_GATE
@_FILE
@command_of
def flagger(session: Session, model: str, target: str, gate: str, file: Path | None) -> tuple[Document, int]:
    """Write a Canary that Flagger promotes where the rollout of MODEL's canary finished, and takes back where that was.

    Write it again for each engine that `canary` points at: the rollout of another one does not count.
    """
    document = flagger_canary(RolloutAddress(model, target), _canary(session, model, target), gate)
    return _give(session, yaml.safe_dump(document, sort_keys=False), file)


def _canary(session: Session, model: str, target: str) -> str:
    """The engine that `canary` points at."""
    address = ChannelAddress(model, target, ChannelName.CANARY)
    current = session.registry.channels.read(address).current
    if current is None:
        raise InputError(f"channel {address} points at no engine; promote the one that is to be rolled out to it first")
    return current.engine_id
