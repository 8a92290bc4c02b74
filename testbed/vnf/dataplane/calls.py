"""What Python calls of an instance's compiled code, with signatures: one machine for any function.

Without a signature the loop would be compiled anew for each function that is handed to it.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import types
from numba.experimental import structref

from testbed.compiled import compiled
from testbed.vnf.dataplane import loop
from testbed.vnf.dataplane.loop import Plane, new_plane
from testbed.vnf.dataplane.ring import Ring
from testbed.vnf.functions.function import PROCESS_TYPE, Process
from testbed.vnf.replication import handling, protocol, shared
from testbed.vnf.replication.member import MEMBER, Member
from testbed.vnf.state.arrays import Words

_BYTE, _WORD = np.zeros(1, np.uint8), np.zeros(1, np.int64)
_PLANE = numba.typeof(new_plane(Ring(_BYTE, _BYTE, _WORD), _WORD, _WORD))
_INT = types.int64
_WORDS = numba.typeof(_WORD)

_serve = loop.serve
_configure = protocol.configure
_drain = protocol.drain
_take_ask = shared.take_ask
_on_granted = handling.on_granted
_on_answer = handling.on_answer


@structref.register
class _BoundType(types.StructRef):  # type: ignore[misc]
    """Numba's type of a `Bound`."""


class Bound(structref.StructRefProxy):  # type: ignore[misc]
    """A member, its function and its plane in one.

    Python takes the arrays of a named tuple out one by one for each call, and puts them back: with
    the forty of an instance that took 85 us every time that its loop was entered.
    """

    def __new__(cls, member: Member, process: Process, plane: Plane) -> Bound:
        """Holds the arrays themselves, no copies."""
        bound: Bound = bind(member, process, plane)
        return bound


structref.define_proxy(Bound, _BoundType, ["member", "process", "plane"])
_BOUND = _BoundType([("member", MEMBER), ("process", PROCESS_TYPE), ("plane", _PLANE)])


@compiled(_BOUND(MEMBER, PROCESS_TYPE, _PLANE))
def bind(member: Member, process: Process, plane: Plane) -> Bound:
    """What `serve` works on."""
    return Bound(member, process, plane)


@compiled(_INT(_BOUND, _INT))
def serve(bound: Bound, until_ns: int) -> int:
    """See `loop.serve`."""
    return _serve(bound.member, bound.process, bound.plane, until_ns)


@compiled(types.boolean(MEMBER, PROCESS_TYPE, _INT, _INT, _INT, _INT, _INT, _INT))
def configure(
    member: Member,
    process: Process,
    now_ns: int,
    epoch: int,
    primary: int,
    backups: int,
    learners: int,
    confirmed: int,
) -> bool:
    """See `protocol.configure`."""
    return _configure(member, process, now_ns, epoch, primary, backups, learners, confirmed)


@compiled(types.void(MEMBER, PROCESS_TYPE, _INT, _INT))
def drain(member: Member, process: Process, now_ns: int, on: int) -> None:
    """See `protocol.drain`."""
    _drain(member, process, now_ns, on)


@compiled(_INT(MEMBER))
def take_ask(member: Member) -> int:
    """See `shared.take_ask`."""
    return _take_ask(member.words)


@compiled(types.boolean(MEMBER, _INT, _WORDS, _INT))
def on_granted(member: Member, now_ns: int, words: Words, index: int) -> bool:
    """See `handling.on_granted`; the change is all of `words`."""
    return _on_granted(member, now_ns, words, 0, len(words), index)


@compiled(types.void(MEMBER, PROCESS_TYPE, _INT, _INT))
def on_answer(member: Member, process: Process, now_ns: int, number: int) -> None:
    """See `handling.on_answer`."""
    _on_answer(member, process, now_ns, number)
