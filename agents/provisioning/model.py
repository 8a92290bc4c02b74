"""A Q network in a file, and the one that decides by it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from agents.common.checkpoints import read_checkpoint, write_checkpoint
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

_TRAINING = {**_KIND, "training": 2}
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
        network.load_state_dict(data["weights"])
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError("model", str(path), f"weights that fit ({first})") from error
    return network.eval()


def write_training(path: Path, state: dict[str, Any]) -> None:
    """Write what a training needs to go on; an interruption leaves the one before."""
    write_checkpoint(path, {**_TRAINING, **state})


def read_training(path: Path) -> dict[str, Any]:
    """What `write_training` wrote; InputError naming "resume" if there is none in it."""
    return read_checkpoint(path, "resume", _TRAINING)
