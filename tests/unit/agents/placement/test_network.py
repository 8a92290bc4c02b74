"""The placement network: what it chooses, and with what probability."""

from __future__ import annotations

import pytest
import torch

from agents.common.worlds import each
from agents.placement.network import Inputs, PlacementNetwork
from tests.support.placement_inputs import random_inputs


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # as in training: two are far slower where a core is busy


def network(seed: int = 0) -> PlacementNetwork:
    torch.manual_seed(seed)
    made = PlacementNetwork(4, 3, 16, 2, 8)
    for head in (made.primary_score, made.backup_score, made.reject):
        torch.nn.init.normal_(head.weight)  # they start at 0, which would hide what is tested
    return made


def permuted(inputs: Inputs, order: torch.Tensor) -> Inputs:
    reject = inputs.primary_mask[:, -1:]
    return Inputs(
        inputs.node[:, order],
        inputs.request,
        inputs.alive[:, order],
        torch.cat([inputs.primary_mask[:, order], reject], dim=1),
        inputs.backup_mask[:, order],
        inputs.delay[order][:, order],
    )


@pytest.mark.parametrize("nodes", [3, 7, 20])
def test_numbering_the_nodes_differently_numbers_the_answers_differently(nodes: int) -> None:
    made, inputs = network(), random_inputs(9, nodes)
    order = torch.randperm(nodes, generator=torch.Generator().manual_seed(1))
    other = permuted(inputs, order)
    one, two = made.encode(inputs), made.encode(other)
    torch.testing.assert_close(one.context, two.context)
    first, first_p = made.primary_logits(inputs, one), made.primary_logits(other, two)
    torch.testing.assert_close(first[:, :-1][:, order], first_p[:, :-1])
    torch.testing.assert_close(first[:, -1], first_p[:, -1])
    primary_p = torch.arange(9) % nodes
    second, _ = made.backup_logits(inputs, one, order[primary_p])
    second_p, _ = made.backup_logits(other, two, primary_p)
    torch.testing.assert_close(second[:, order], second_p)
    assert first.std() > 0.1


def test_what_is_masked_is_never_chosen_and_the_backup_is_another_node() -> None:
    inputs = random_inputs(4000, 5)
    inputs.primary_mask[:, -1] = True
    chosen = network().act(inputs, torch.Generator().manual_seed(0))
    rows = torch.arange(4000)
    assert inputs.primary_mask[rows, chosen.primary].all()
    with_backup = chosen.backup >= 0
    assert inputs.backup_mask[rows, chosen.backup][with_backup].all()
    assert (chosen.backup != chosen.primary).all()
    assert (chosen.backup[chosen.primary == 5] == -1).all()
    assert with_backup.float().mean() > 0.5


def test_evaluate_gives_the_probability_with_which_act_chose() -> None:
    made, inputs = network(), random_inputs(50, 6)
    inputs.primary_mask[:, -1] = True
    chosen = made.act(inputs, torch.Generator().manual_seed(0))
    log_probability, entropy, value = made.evaluate(inputs, chosen.primary, chosen.backup)
    torch.testing.assert_close(log_probability, chosen.log_probability)
    torch.testing.assert_close(value, chosen.value)
    assert (entropy >= 0).all()


def test_drawing_follows_the_probabilities() -> None:
    made, inputs = network(), random_inputs(1, 4)
    inputs.primary_mask[:] = True
    expected = made.primary_logits(inputs, made.encode(inputs)).softmax(-1)[0]
    many = each(lambda column: column.expand(20_000, *column.shape[1:]), inputs)
    drawn = made.act(many, torch.Generator().manual_seed(0)).primary
    found = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(found, expected.detach(), atol=0.015, rtol=0.0)
