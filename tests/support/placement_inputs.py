"""Inputs of a placement network, drawn at random."""

from __future__ import annotations

import torch

from agents.placement.network import Inputs


def random_inputs(batch: int, nodes: int, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    distance = torch.rand(nodes, nodes, generator=generator)
    return Inputs(
        node=torch.randn(batch, nodes, 4, generator=generator),
        request=torch.randn(batch, 3, generator=generator),
        alive=torch.rand(batch, nodes, generator=generator) < 0.9,
        primary_mask=torch.rand(batch, nodes + 1, generator=generator) < 0.8,
        backup_mask=torch.rand(batch, nodes, generator=generator) < 0.8,
        delay=distance + distance.T,
    )
