"""A learned placement in a file, and the policy that decides by it."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from agents.common.networks import PlacementNetwork
from agents.placement.features import NODE_FEATURES, REQUEST_FEATURES, make_inputs
from testbed.scenario.errors import InputError
from testbed.scenario.placement import PlacementObservation
from testbed.scenario.types import Placement
from testbed.twin.observe import pack_observations

FORMAT = 1


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """Width of the hidden layers and number of attention heads."""

    width: int = 48
    heads: int = 2


class PpoPolicy:
    """Takes the most likely decision of a network."""

    def __init__(self, network: PlacementNetwork) -> None:
        self._network = network.eval()

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The network's choice; None where it rejects."""
        o = observation
        if o.members:
            alive = o.alive.copy()
            alive[list(o.members)] = False
            o = dataclasses.replace(o, alive=alive)
        inputs = make_inputs(pack_observations([o]))
        chosen = self._network.act(inputs, None)
        primary, backup = int(chosen.primary[0]), int(chosen.backup[0])
        if primary == len(o.alive):
            return None
        if o.task == "backup":
            return Placement(o.members[0], primary)
        return Placement(primary, None if backup < 0 else backup)


def save_model(path: Path, network: PlacementNetwork, size: NetworkSize) -> None:
    """Write weights and what is needed to build the network again."""
    torch.save(
        {
            "format": FORMAT,
            "kind": "placement-ppo",
            "node_features": NODE_FEATURES,
            "request_features": REQUEST_FEATURES,
            "size": asdict(size),
            "weights": network.state_dict(),
        },
        path,
    )


def load_model(path: Path | None) -> PlacementNetwork:
    """The network in a file of `save_model`; InputError naming "model" if there is none in it."""
    if path is None:
        raise InputError("model", None, "the file of a trained model (deftbed train writes one)")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError("model", str(path), f"a readable model file ({first})") from error
    expected = {
        "format": FORMAT,
        "kind": "placement-ppo",
        "node_features": NODE_FEATURES,
        "request_features": REQUEST_FEATURES,
    }
    found = {key: data.get(key) for key in expected} if isinstance(data, dict) else None
    if found != expected:
        raise InputError("model", str(path), f"a model with {expected}, not {found}")
    try:
        size = NetworkSize(**data["size"])
        network = PlacementNetwork(NODE_FEATURES, REQUEST_FEATURES, size.width, size.heads)
        network.load_state_dict(data["weights"])
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError("model", str(path), f"weights that fit the network ({first})") from error
    return network
