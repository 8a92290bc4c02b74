"""What can be done with a group, a primary and its backup: be placed, be given a backup.

A change counts from the time at which the environment is.
"""

from __future__ import annotations

from testbed.compiled import compiled_part
from testbed.twin.kernel import gone
from testbed.twin.state import State, World


@compiled_part
def accepted_and_there(world: World, state: State, b: int, r: int) -> bool:
    """Whether the instances of a request on the list of the active ones are there now."""
    return not gone(world.plans, world.rates, state.plan[b], r, state.now_ns[b])


@compiled_part
def known_dead(world: World, state: State, b: int, node: int) -> bool:
    """Whether a server has been found dead."""
    known_ns = state.now_ns[b] - world.rates.detection_ns
    dead: bool = world.plans.death_ns[state.plan[b], node] <= known_ns
    return dead


@compiled_part
def place(state: State, b: int, r: int, f: int, primary: int, backup: int) -> None:
    """Put function number `f` of a request at two nodes; backup -1 for none.

    Functions are placed in their order; `accept` or `refuse` ends it.
    """
    state.primary[b, r, f], state.backup[b, r, f] = primary, backup
    state.placed[b, r] = f + 1


@compiled_part
def accept(state: State, b: int, r: int) -> None:
    """A request whose functions are placed is served from now on."""
    state.active[b, state.active_count[b]] = r
    state.active_count[b] += 1


@compiled_part
def refuse(state: State, b: int, r: int) -> None:
    """A request is rejected, whatever was placed of it."""
    state.placed[b, r] = 0


@compiled_part
def joinable(world: World, state: State, b: int, r: int, f: int, node: int) -> bool:
    """Whether a backup of a group can be at `node`.

    Not at none, nor where the primary is, nor on a server known to be dead, nor where nothing is
    replicated.
    """
    if node < 0 or node == state.primary[b, r, f] or world.plans.backups == 0:
        return False
    return not known_dead(world, state, b, node)


@compiled_part
def join(world: World, state: State, b: int, r: int, f: int, node: int) -> None:
    """Give a group a backup, which has to start and to catch up."""
    state.backup[b, r, f] = node
    state.joined_ns[b, r, f] = state.now_ns[b] + world.rates.repair_ns
