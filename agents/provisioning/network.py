"""The Q network: three branches and the data centres, attention over them, a dueling head.

The paper's network concatenates three branches and attends over the one vector that results, which
does nothing. Here each branch is a token, and so is each data centre (by one network for all, so
that their number and order do not matter); every token attends to every other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from agents.provisioning.config import NetworkSize
from agents.provisioning.observe import CENTRE, OWN, PENDING, UNDERWAY
from agents.provisioning.types import ACTIONS, TYPES, Float32Array, Observation

_FIXED = OWN + TYPES * (UNDERWAY + PENDING)


def row_width(centres: int) -> int:
    """Numbers in a row of `pack` for up to `centres` data centres."""
    return _FIXED + centres * (CENTRE + 1)


def pack(seen: Observation) -> Float32Array:
    """The observations [B] as rows [B, row_width(D)], without the mask of actions."""
    batch = len(seen.own)
    parts = (seen.own, seen.underway, seen.pending, seen.centres, seen.present)
    return np.concatenate([part.reshape(batch, -1) for part in parts], axis=1, dtype=np.float32)


class Dueling(nn.Module):
    """Q = V + A - mean A (Wang et al., ICML 2016, equation 9); without `dueling`, Q itself."""

    def __init__(self, width: int, actions: int, dueling: bool) -> None:
        super().__init__()
        self.advantage = nn.Linear(width, actions)
        self.value = nn.Linear(width, 1) if dueling else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden [B, width] to Q [B, actions]."""
        advantage: Tensor = self.advantage(hidden)
        if self.value is None:
            return advantage
        value: Tensor = self.value(hidden)
        return value + advantage - advantage.mean(dim=-1, keepdim=True)


class QNetwork(nn.Module):
    """Rows of `pack` to the value of each action."""

    def __init__(self, size: NetworkSize, dueling: bool = True) -> None:
        super().__init__()
        width = size.own[-1]
        self.heads = size.heads
        self.own = _branch(OWN, size.own)
        self.underway = _branch(TYPES * UNDERWAY, size.underway)
        self.pending = _branch(TYPES * PENDING, size.pending)
        self.centre = _branch(CENTRE, (size.pending[0], width))
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.attended = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.trunk = _branch(3 * width, size.trunk)
        self.head = Dueling(size.trunk[-1], ACTIONS, dueling)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [B, row_width(D)] of any D to Q [B, ACTIONS]."""
        batch = len(rows)
        count = (rows.shape[1] - _FIXED) // (CENTRE + 1)
        own, underway, pending, centres, present = torch.split(
            rows, [OWN, TYPES * UNDERWAY, TYPES * PENDING, count * CENTRE, count], dim=1
        )
        parts = torch.stack([self.own(own), self.underway(underway), self.pending(pending)], dim=1)
        nodes = self.centre(centres.reshape(batch, count, CENTRE))
        there = torch.cat([present.new_ones(batch, 3), present], dim=1) > 0.5
        mixed = self._attention(parts, torch.cat([parts, nodes], dim=1), there)
        hidden = self.trunk(self.norm(parts + mixed).reshape(batch, -1))
        values: Tensor = self.head(hidden)
        return values

    def _attention(self, parts: Tensor, tokens: Tensor, there: Tensor) -> Tensor:
        """Scaled dot-product attention (Vaswani et al., 2017) of the parts over the tokens.

        parts [B, 3, W] and tokens [B, T, W] to [B, 3, W]; there [B, T], which tokens count.
        """
        batch, count, width = tokens.shape
        each = width // self.heads
        query = self.query(parts).view(batch, 3, self.heads, each).transpose(1, 2)
        keys, values = self.key_value(tokens).chunk(2, dim=-1)
        key = keys.reshape(batch, count, self.heads, each).permute(0, 2, 3, 1)
        value = values.reshape(batch, count, self.heads, each).transpose(1, 2)
        scores = (query @ key) / each**0.5  # [B, H, 3, T]
        weight = scores.masked_fill(~there[:, None, None, :], -torch.inf).softmax(-1)
        attended: Tensor = self.attended((weight @ value).transpose(1, 2).reshape(parts.shape))
        return attended


def _branch(width: int, layers: tuple[int, ...]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for layer in layers:
        parts += [nn.Linear(width, layer), nn.ReLU()]
        width = layer
    return nn.Sequential(*parts)
