"""The networks: three branches and the data centres, attention over them, and heads.

The paper's network concatenates three branches and attends over the one vector that results, which
does nothing. Here each branch is a token, and so is each data centre (by one network for all, so
that their number and order do not matter); every token attends to every other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.common.categorical import MASKED, at, draw, entropy_of
from agents.common.worlds import Rows
from agents.learners.dqn import Dueling
from agents.provisioning.config import NetworkSize
from agents.provisioning.observation_columns import (
    CENTRE,
    EACH,
    HEAD,
    OWN,
    PENDING,
    UNDERWAY,
    VNF_ADVISED,
    VNF_IDLE,
)
from agents.provisioning.types import ACTIONS, TYPES, VNFS, Float32Array, Observation

_FIXED = OWN + TYPES * (UNDERWAY + PENDING)


def row_width(centres: int) -> int:
    """Numbers in a row of `pack` for up to `centres` data centres."""
    return _FIXED + centres * (CENTRE + 1)


def pack(seen: Observation) -> Float32Array:
    """The observations [B] as rows [B, row_width(D)], without the mask of actions."""
    batch = len(seen.own)
    parts = (seen.own, seen.underway, seen.pending, seen.centres, seen.present)
    return np.concatenate([part.reshape(batch, -1) for part in parts], axis=1, dtype=np.float32)


class Body(nn.Module):
    """Rows of `pack` to what the heads decide from."""

    def __init__(self, size: NetworkSize) -> None:
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

    def hidden(self, rows: Tensor) -> Tensor:
        """Rows [B, row_width(D)] of any D to [B, size.trunk[-1]]."""
        batch = len(rows)
        count = (rows.shape[1] - _FIXED) // (CENTRE + 1)
        own, underway, pending, centres, present = torch.split(
            rows, [OWN, TYPES * UNDERWAY, TYPES * PENDING, count * CENTRE, count], dim=1
        )
        parts = torch.stack([self.own(own), self.underway(underway), self.pending(pending)], dim=1)
        nodes = self.centre(centres.reshape(batch, count, CENTRE))
        there = torch.cat([present.new_ones(batch, 3), present], dim=1) > 0.5
        mixed = self._attention(parts, torch.cat([parts, nodes], dim=1), there)
        found: Tensor = self.trunk(self.norm(parts + mixed).reshape(batch, -1))
        return found

    def advice(self, rows: Tensor) -> Tensor:
        """What the packing heuristic would do, as rows [B, W] tell it; [B]."""
        vnfs = rows[:, HEAD:OWN].reshape(len(rows), VNFS, EACH)
        told, idle = vnfs[:, :, VNF_ADVISED], vnfs[:, :, VNF_IDLE]
        wait = torch.ones_like(told[:, :1])
        # The VNF that is advised, else the first that is idle to uninstall, else wait.
        first = torch.arange(VNFS, 0, -1) + 1.0
        return torch.cat([10.0 * told, first * (idle > 0.0), wait], dim=1).argmax(1)

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


class QNetwork(Body):
    """Rows of `pack` to the value of each action."""

    def __init__(self, size: NetworkSize, dueling: bool = True) -> None:
        super().__init__(size)
        self.head = Dueling(size.trunk[-1], ACTIONS, dueling)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [B, row_width(D)] of any D to Q [B, ACTIONS]."""
        values: Tensor = self.head(self.hidden(rows))
        return values


class Decision(NamedTuple):
    """What was chosen in B states, and how likely that was."""

    action: tuple[Tensor]  # [B]
    log_probability: Tensor
    value: Tensor


class PolicyNetwork(Body):
    """Rows of `pack` to the probability of each action and the value of the state, for PPO."""

    def __init__(self, size: NetworkSize) -> None:
        super().__init__(size)
        self.policy = nn.Linear(size.trunk[-1], ACTIONS)
        self.value = nn.Linear(size.trunk[-1], 1)
        nn.init.zeros_(self.policy.weight)
        nn.init.zeros_(self.policy.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [B, row_width(D)] of any D to the score of each action, [B, ACTIONS]."""
        scores: Tensor = self.policy(self.hidden(rows))
        return scores

    def _both(self, seen: Rows) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(seen.rows)
        scores = self.policy(hidden).masked_fill(~seen.mask, MASKED)
        return scores.log_softmax(-1), self.value(hidden).squeeze(-1)

    @torch.no_grad()
    def act(self, inputs: Rows, generator: torch.Generator | None) -> Decision:
        """Draw valid actions [B]; without a generator, take the most likely ones."""
        log_probabilities, value = self._both(inputs)
        action = draw(log_probabilities, generator)
        return Decision((action,), at(log_probabilities, action), value)

    def evaluate(self, inputs: Rows, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(log probability, entropy, value), each [M], of actions that were taken."""
        log_probabilities, value = self._both(inputs)
        return at(log_probabilities, action), entropy_of(log_probabilities), value


def _branch(width: int, layers: tuple[int, ...]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for layer in layers:
        parts += [nn.Linear(width, layer), nn.ReLU()]
        width = layer
    return nn.Sequential(*parts)
