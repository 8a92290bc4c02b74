"""A learned network in a file, and the one that decides by it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from agents.common.checkpoints import load_weights, read_checkpoint, write_checkpoint
from agents.provisioning.batch import Actor, ProvisioningBatch
from agents.provisioning.config import DqnConfig, NetworkSize, PpoConfig
from agents.provisioning.network import PolicyNetwork, QNetwork, pack
from agents.provisioning.observation_columns import CENTRE, OWN, PENDING, UNDERWAY
from agents.provisioning.types import IntArray
from testbed.scenario.errors import InputError

Network = QNetwork | PolicyNetwork
"""Either gives a number to each action, and the greatest of the valid ones is chosen."""

_FORMAT = 3
"""1: counts of servable chains were wrong in what the network learned from. 2: without the columns
of what is best served here."""
_COLUMNS = [OWN, UNDERWAY, PENDING, CENTRE]
_TRAINING = 3
"""Of a training that was cut off; 3: the trainer is that of every problem."""


def network_actor(network: Network) -> Actor:
    """The valid action with the highest value, or the most likely one."""

    @torch.no_grad()
    def actor(batch: ProvisioningBatch) -> IntArray:
        seen = batch.observe()
        values = network(torch.from_numpy(pack(seen)))
        values = values.masked_fill(~torch.from_numpy(seen.mask), -torch.inf)
        chosen: IntArray = values.argmax(1).numpy()
        return chosen

    return actor


def make_network(config: DqnConfig | PpoConfig, seed: int) -> Network:
    """A network whose weights are drawn from `seed`; torch's own generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(config, PpoConfig):
            return PolicyNetwork(config.size)
        return QNetwork(config.size, config.dueling)


def save_model(path: Path, network: Network, config: DqnConfig | PpoConfig) -> None:
    """Write weights and what is needed to build the network again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {**_header(algorithm_of(config)), "size": asdict(config.size)}
    if isinstance(config, DqnConfig):
        head["dueling"] = config.dueling
    write_checkpoint(path, {**head, "weights": network.state_dict()})


def load_model(path: Path | None, algorithm: str = "dqn") -> Network:
    """The network in a file of `save_model`; InputError naming "model" if there is none in it.

    `algorithm`, "dqn" or "ppo", is what the network was trained by.
    """
    if path is None:
        raise InputError("model", None, "the file of a trained model (deftbed train writes one)")
    data = read_checkpoint(path, "model", _header(algorithm))
    try:
        size = NetworkSize(**data["size"])
        network: Network = (
            PolicyNetwork(size) if algorithm == "ppo" else QNetwork(size, bool(data["dueling"]))
        )
    except (KeyError, TypeError) as error:
        raise InputError("model", str(path), "a model with the sizes of its network") from error
    load_weights(network, data.get("weights"), path)
    return network.eval()


def training_header(config: DqnConfig | PpoConfig, seed: int) -> dict[str, Any]:
    """What a training's checkpoint says of itself: its arguments."""
    head = _header(algorithm_of(config))
    arguments = {"config": {**asdict(config), "rewards": config.rewards._asdict()}, "seed": seed}
    return {**head, "kind": f"{head['kind']}-checkpoint", "training": _TRAINING, **arguments}


def algorithm_of(config: DqnConfig | PpoConfig) -> str:
    """The algorithm that a config is of."""
    return "ppo" if isinstance(config, PpoConfig) else "dqn"


def _header(algorithm: str) -> dict[str, Any]:
    return {"format": _FORMAT, "kind": f"provisioning-{algorithm}", "columns": _COLUMNS}
