"""A network over nodes: attention with the request as query, then a score for every node.

It has no weight that belongs to a node, so it works for any number of nodes, and numbering them
differently numbers its answers differently and changes nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.common.categorical import MASKED, at, draw, entropy_of


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

    def shared(self) -> tuple[str, ...]:
        """Delays belong to the substrate, not to a decision."""
        return ("delay",)


class Decision(NamedTuple):
    """What was chosen, and how likely it was; `backup` is -1 where there is none."""

    primary: Tensor
    backup: Tensor
    log_probability: Tensor
    value: Tensor

    @property
    def action(self) -> tuple[Tensor, Tensor]:
        """Primary and backup."""
        return self.primary, self.backup


class Encoded(NamedTuple):
    """What both choices start from."""

    nodes: Tensor  # [M, N, W]
    context: Tensor  # [M, W]
    primary: Tensor  # [M, N, V], hidden layer of the primary's scores without the context
    backup: Tensor  # [M, N, V], the same of the backup's


class PlacementNetwork(nn.Module):
    """Scores for primary and backup, and the value of the state.

    `node_size` F and `request_size` G are the widths of the inputs, `width` W of the hidden
    layers, `score_width` V of those of the scores. Keys and values of the attention are applied
    to the query and to the sum, which is the same as to every node and N times cheaper.
    """

    def __init__(
        self, node_size: int, request_size: int, width: int, heads: int, score_width: int
    ) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.request = nn.Linear(request_size, width)
        self.node_in = nn.Linear(node_size, width)
        self.request_in = nn.Linear(width, width, bias=False)
        self.node_hidden = nn.Linear(width, width)
        self.query = nn.Linear(width, heads * width)
        self.context = nn.Linear(width + heads * width, width)
        self.score_nodes = nn.Linear(width, 2 * score_width)
        self.score_context = nn.Linear(width, 2 * score_width, bias=False)
        self.backup_primary = nn.Linear(width, score_width, bias=False)
        self.backup_delay = nn.Parameter(torch.zeros(score_width))
        self.primary_score = nn.Linear(score_width, 1)
        self.backup_score = nn.Linear(score_width, 1)
        self.reject = nn.Linear(width, 1)
        self.value = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        for head in (self.primary_score, self.backup_score, self.reject):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def encode(self, inputs: Inputs) -> Encoded:
        """Node states, and the context that the request attends to."""
        # The output of a layer on three axes is a view: changed in place, it would be copied whole
        # on the way back. Biases are added where there is one row a decision, not one a node.
        asked = functional.relu(self.request(inputs.request))
        of_request = self.request_in(asked) + self.node_in.bias
        hidden = functional.linear(inputs.node, self.node_in.weight) + of_request[:, None]
        nodes = functional.relu(self.node_hidden(functional.relu(hidden)))
        batch = nodes.shape[0]
        query = self.query(asked).view(batch, self.heads, self.width)
        # Nodes first: what comes back to them then lies as they do.
        scores = torch.bmm(nodes, query.transpose(1, 2)) / self.width**0.5  # [M, N, H]
        scores = scores.masked_fill(~inputs.alive[..., None], MASKED).softmax(1)
        attended = torch.bmm(scores.transpose(1, 2), nodes).view(batch, self.heads * self.width)
        context = functional.relu(self.context(torch.cat([asked, attended], dim=-1)))
        of_context = self.score_context(context) + self.score_nodes.bias
        mixed = functional.linear(nodes, self.score_nodes.weight) + of_context[:, None]
        primary, backup = mixed.chunk(2, dim=-1)
        return Encoded(nodes, context, primary, backup)

    def primary_logits(self, inputs: Inputs, encoded: Encoded) -> Tensor:
        """Scores of every node as primary and of a rejection, [M, N + 1]."""
        scores = self.primary_score(functional.relu(encoded.primary)).squeeze(-1)
        scores = torch.cat([scores, self.reject(encoded.context)], dim=-1)
        return scores.masked_fill(~inputs.primary_mask, MASKED)

    def backup_logits(
        self, inputs: Inputs, encoded: Encoded, primary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores [M, N] of every node as backup of `primary` [M], and whether one can be [M]."""
        count = encoded.nodes.shape[1]
        node = primary.clamp(max=count - 1)
        taken = torch.arange(count, device=node.device) == node[:, None]
        allowed = inputs.backup_mask & ~taken
        index = node[:, None, None].expand(-1, 1, encoded.nodes.shape[2])
        chosen_node = encoded.nodes.gather(1, index).squeeze(1)
        mixed = encoded.backup + self.backup_primary(chosen_node)[:, None]
        mixed = mixed.addcmul_(inputs.delay[node][..., None], self.backup_delay)
        scores = self.backup_score(functional.relu_(mixed)).squeeze(-1)
        chosen = (primary < count) & allowed.any(-1)
        return scores.masked_fill(~allowed, MASKED), chosen

    @torch.no_grad()
    def act(self, inputs: Inputs, generator: torch.Generator | None) -> Decision:
        """Draw decisions [M]; without a generator, take the most likely ones."""
        encoded = self.encode(inputs)
        first = self.primary_logits(inputs, encoded).log_softmax(-1)
        primary = draw(first, generator)
        scores, chosen = self.backup_logits(inputs, encoded, primary)
        second = scores.log_softmax(-1)
        backup = draw(second, generator)
        log_probability = at(first, primary) + torch.where(chosen, at(second, backup), 0.0)
        value = self.value(encoded.context).squeeze(-1)
        return Decision(primary, torch.where(chosen, backup, -1), log_probability, value)

    def evaluate(
        self, inputs: Inputs, primary: Tensor, backup: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(log probability, entropy, value), each [M], of decisions that were taken."""
        encoded = self.encode(inputs)
        first = self.primary_logits(inputs, encoded).log_softmax(-1)
        scores, chosen = self.backup_logits(inputs, encoded, primary)
        second = scores.log_softmax(-1)
        backup_log = torch.where(chosen, at(second, backup.clamp(min=0)), 0.0)
        entropy = entropy_of(first) + torch.where(chosen, entropy_of(second), 0.0)
        value = self.value(encoded.context).squeeze(-1)
        return at(first, primary) + backup_log, entropy, value
