"""A learned placement in a file, and the policy that decides by it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from agents.common.checkpoints import load_weights, read_checkpoint, write_checkpoint
from agents.placement.features import NODE_FEATURES, REQUEST_FEATURES, make_inputs
from agents.placement.network import PlacementNetwork
from agents.placement.observe import pack_observations
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.errors import InputError
from testbed.scenario.types import Placement

_HEADER = {
    "format": 4,  # 3: other use of a backup's server where a primary moves there
    "kind": "placement-ppo",
    "node_features": NODE_FEATURES,
    "request_features": REQUEST_FEATURES,
}


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """Widths of the hidden layers and of the scores', and number of attention heads."""

    width: int = 32
    heads: int = 2
    score_width: int = 16


class PpoPolicy:
    """Takes the most likely decision of a network."""

    def __init__(self, network: PlacementNetwork) -> None:
        self._network = network.eval()

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The network's choice; None where it rejects."""
        chosen = self._network.act(make_inputs(pack_observations([observation])), None)
        primary, backup = int(chosen.primary[0]), int(chosen.backup[0])
        if primary == len(observation.alive):
            return None
        return Placement(primary, None if backup < 0 else backup)


def build(size: NetworkSize) -> PlacementNetwork:
    """A network of this size, with weights from torch's generator."""
    return PlacementNetwork(
        NODE_FEATURES, REQUEST_FEATURES, size.width, size.heads, size.score_width
    )


def make_network(size: NetworkSize, seed: int) -> PlacementNetwork:
    """A network with weights drawn from `seed`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(size)


def save_model(path: Path, network: PlacementNetwork, size: NetworkSize) -> None:
    """Write weights and what is needed to build the network again."""
    write_checkpoint(path, {**_HEADER, "size": asdict(size), "weights": network.state_dict()})


def load_model(path: Path | None) -> PlacementNetwork:
    """The network in a file of `save_model`; InputError naming "model" if there is none in it."""
    if path is None:
        raise InputError("model", None, "the file of a trained model (deftbed train writes one)")
    data = read_checkpoint(path, "model", _HEADER)
    try:
        network = build(NetworkSize(**data["size"]))
    except (KeyError, TypeError) as error:
        raise InputError("model", str(path), "a model with the sizes of its network") from error
    load_weights(network, data.get("weights"), path)
    return network
