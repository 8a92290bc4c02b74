"""A network over nodes: attention with the request as query, then a score for every node.

It has no weight that belongs to a node, so it works for any number of nodes, and numbering them
differently numbers its answers differently and changes nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

MASKED = -1e9


class Inputs(NamedTuple):
    """M decisions over N nodes.

    A decision is a primary (a node, or N: reject), then a backup (a node other than it). Where
    `backup_mask` leaves no node but the primary, there is no choice and no backup.
    """

    node: Tensor  # [M, N, F]
    request: Tensor  # [M, G]
    alive: Tensor  # [M, N] bool: nodes to attend to
    primary_mask: Tensor  # [M, N + 1] bool: what may be chosen, reject last
    backup_mask: Tensor  # [M, N] bool, the primary itself is taken out by the network
    delay: Tensor  # [N, N], any scale


class Decision(NamedTuple):
    """What was chosen, and how likely it was; `backup` is -1 where there is none."""

    primary: Tensor
    backup: Tensor
    log_probability: Tensor
    value: Tensor


class PlacementNetwork(nn.Module):
    """Scores for primary and backup, and the value of the state.

    `node_size` F and `request_size` G are the widths of the inputs, `width` of the hidden layers.
    """

    def __init__(self, node_size: int, request_size: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.request = nn.Sequential(nn.Linear(request_size, width), nn.ReLU())
        self.node_in = nn.Linear(node_size, width)
        self.request_in = nn.Linear(width, width, bias=False)
        self.node_hidden = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.context = nn.Linear(2 * width, width)
        self.primary_node = nn.Linear(width, width)
        self.primary_context = nn.Linear(width, width, bias=False)
        self.primary_score = nn.Linear(width, 1)
        self.backup_node = nn.Linear(width, width)
        self.backup_primary = nn.Linear(width, width, bias=False)
        self.backup_context = nn.Linear(width, width, bias=False)
        self.backup_delay = nn.Linear(1, width, bias=False)
        self.backup_score = nn.Linear(width, 1)
        self.reject = nn.Linear(width, 1)
        self.value = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        for head in (self.primary_score, self.backup_score, self.reject):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Node states [M, N, W] and the context [M, W] that the request attends to."""
        asked = self.request(inputs.request)
        hidden = functional.relu(self.node_in(inputs.node) + self.request_in(asked)[:, None])
        nodes = functional.relu(self.node_hidden(hidden))
        batch, count, width = nodes.shape
        split = (batch, count, self.heads, width // self.heads)
        query = self.query(asked).view(batch, self.heads, -1, 1)
        key = self.key(nodes).view(split).transpose(1, 2)
        scores = (key @ query).squeeze(-1) / (width // self.heads) ** 0.5  # [M, H, N]
        scores = scores.masked_fill(~inputs.alive[:, None], MASKED)
        values = self.values(nodes).view(split).transpose(1, 2)
        attended = (scores.softmax(-1)[:, :, None] @ values).reshape(batch, width)
        context = functional.relu(self.context(torch.cat([asked, attended], dim=-1)))
        return nodes, context

    def primary_logits(self, inputs: Inputs, nodes: Tensor, context: Tensor) -> Tensor:
        """Scores of every node as primary and of a rejection, [M, N + 1]."""
        mixed = self.primary_node(nodes) + self.primary_context(context)[:, None]
        scores = self.primary_score(functional.relu(mixed)).squeeze(-1)
        scores = torch.cat([scores, self.reject(context)], dim=-1)
        return scores.masked_fill(~inputs.primary_mask, MASKED)

    def backup_logits(
        self, inputs: Inputs, nodes: Tensor, context: Tensor, primary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores [M, N] of every node as backup of `primary` [M], and whether one can be [M]."""
        count = nodes.shape[1]
        node = primary.clamp(max=count - 1)
        rows = torch.arange(len(node))
        allowed = inputs.backup_mask.clone()
        allowed[rows, node] = False
        delay = self.backup_delay(inputs.delay[node][..., None])
        mixed = self.backup_node(nodes) + delay
        mixed = (
            mixed + (self.backup_primary(nodes[rows, node]) + self.backup_context(context))[:, None]
        )
        scores = self.backup_score(functional.relu(mixed)).squeeze(-1)
        chosen = (primary < count) & allowed.any(-1)
        return scores.masked_fill(~allowed, MASKED), chosen

    @torch.no_grad()
    def act(self, inputs: Inputs, generator: torch.Generator | None) -> Decision:
        """Draw decisions [M]; without a generator, take the most likely ones."""
        nodes, context = self.encode(inputs)
        first = self.primary_logits(inputs, nodes, context).log_softmax(-1)
        primary = _draw(first, generator)
        scores, chosen = self.backup_logits(inputs, nodes, context, primary)
        second = scores.log_softmax(-1)
        backup = _draw(second, generator)
        log_probability = _at(first, primary) + torch.where(chosen, _at(second, backup), 0.0)
        value = self.value(context).squeeze(-1)
        return Decision(primary, torch.where(chosen, backup, -1), log_probability, value)

    def evaluate(
        self, inputs: Inputs, primary: Tensor, backup: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(log probability, entropy, value), each [M], of decisions that were taken."""
        nodes, context = self.encode(inputs)
        first = self.primary_logits(inputs, nodes, context).log_softmax(-1)
        scores, chosen = self.backup_logits(inputs, nodes, context, primary)
        second = scores.log_softmax(-1)
        backup_log = torch.where(chosen, _at(second, backup.clamp(min=0)), 0.0)
        entropy = _entropy(first) + torch.where(chosen, _entropy(second), 0.0)
        return _at(first, primary) + backup_log, entropy, self.value(context).squeeze(-1)


def _draw(log_probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return log_probabilities.argmax(-1)
    # The inverse of the distribution at a uniform number: one draw a row, whatever the width.
    cumulative = log_probabilities.exp().cumsum(-1)
    drawn = torch.rand(len(cumulative), 1, generator=generator) * cumulative[:, -1:]
    return (cumulative <= drawn).sum(-1).clamp(max=cumulative.shape[-1] - 1)


def _at(table: Tensor, column: Tensor) -> Tensor:
    return table.gather(-1, column[:, None]).squeeze(-1)


def _entropy(log_probabilities: Tensor) -> Tensor:
    return -(log_probabilities.exp() * log_probabilities).sum(-1)
