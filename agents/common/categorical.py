"""Choices among K, from their log probabilities [M, K]."""

from __future__ import annotations

import torch
from torch import Tensor

MASKED = -1e9
"""The score of what may not be chosen."""


def draw(log_probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """One of [M, K] in each row, [M]; without a generator the most likely one."""
    if generator is None:
        return log_probabilities.argmax(-1)
    # The inverse of the distribution at a uniform number: one draw a row, whatever the width.
    cumulative = log_probabilities.exp().cumsum(-1)
    uniform = torch.rand(len(cumulative), 1, generator=generator).to(cumulative.device)
    drawn = uniform * cumulative[:, -1:]
    return (cumulative <= drawn).sum(-1).clamp(max=cumulative.shape[-1] - 1)


def at(table: Tensor, column: Tensor) -> Tensor:
    """The value of row i in column[i], [M]."""
    return table.gather(-1, column[:, None]).squeeze(-1)


def entropy_of(log_probabilities: Tensor) -> Tensor:
    """Of the distribution in each row, in nats, [M]."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1)
