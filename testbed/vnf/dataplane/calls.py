"""What Python calls of an instance's compiled code, with signatures: one machine for any function.

Without a signature the loop would be compiled anew for each function that is handed to it.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import types

from testbed.compiled import compiled
from testbed.vnf.arrays import Words
from testbed.vnf.dataplane import loop
from testbed.vnf.dataplane.loop import Plane, new_plane
from testbed.vnf.dataplane.ring import Ring
from testbed.vnf.functions.function import PROCESS_TYPE, Process
from testbed.vnf.replication import handling, protocol, shared
from testbed.vnf.replication.member import MEMBER, Member

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


@compiled(_INT(MEMBER, PROCESS_TYPE, _PLANE, _INT))
def serve(member: Member, process: Process, plane: Plane, until_ns: int) -> int:
    """See `loop.serve`."""
    return _serve(member, process, plane, until_ns)


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
