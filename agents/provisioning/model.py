"""A Q network in a file, and the one that decides by it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from agents.common.checkpoints import load_weights, read_checkpoint, write_checkpoint
from agents.provisioning.batch import Actor, ProvisioningBatch
from agents.provisioning.config import DqnConfig, NetworkSize
from agents.provisioning.network import QNetwork, pack
from agents.provisioning.observe import CENTRE, OWN, PENDING, UNDERWAY
from agents.provisioning.types import IntArray
from testbed.scenario.errors import InputError

_KIND = {
    "format": 2,  # 1: counts of servable chains were wrong in what the network learned from
    "kind": "provisioning-dqn",
    "columns": [OWN, UNDERWAY, PENDING, CENTRE],
}

_TRAINING = {**_KIND, "kind": "provisioning-dqn-checkpoint", "training": 2}
"""A training that was cut off; 2: the steps of transitions to come know whether they began one."""


def network_actor(network: QNetwork) -> Actor:
    """The valid action of the highest value."""

    @torch.no_grad()
    def actor(batch: ProvisioningBatch) -> IntArray:
        seen = batch.observe()
        values = network(torch.from_numpy(pack(seen)))
        values = values.masked_fill(~torch.from_numpy(seen.mask), -torch.inf)
        chosen: IntArray = values.argmax(1).numpy()
        return chosen

    return actor


def make_network(config: DqnConfig, seed: int) -> QNetwork:
    """A network whose weights are drawn from `seed`; torch's own generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QNetwork(config.size, config.dueling)


def save_model(path: Path, network: QNetwork, config: DqnConfig) -> None:
    """Write weights and what is needed to build the network again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {**_KIND, "size": asdict(config.size), "dueling": config.dueling}
    write_checkpoint(path, {**head, "weights": network.state_dict()})


def load_model(path: Path | None) -> QNetwork:
    """The network in a file of `save_model`; InputError naming "model" if there is none in it."""
    if path is None:
        raise InputError("model", None, "the file of a trained model (deftbed train writes one)")
    data = read_checkpoint(path, "model", _KIND)
    try:
        network = QNetwork(NetworkSize(**data["size"]), bool(data["dueling"]))
    except (KeyError, TypeError) as error:
        raise InputError("model", str(path), "a model with the sizes of its network") from error
    load_weights(network, data.get("weights"), path)
    return network.eval()


def training_header(config: DqnConfig, seed: int) -> dict[str, Any]:
    """What a training's checkpoint says of itself: its arguments."""
    rewards = config.rewards._asdict()
    arguments = {"config": {**asdict(config), "rewards": rewards}, "seed": seed}
    return {**_TRAINING, **arguments}
