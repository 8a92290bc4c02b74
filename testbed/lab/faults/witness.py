"""Watches on the wire whether an instance emits."""

from __future__ import annotations

import contextlib
from types import TracebackType

from testbed.lab.faults.stage import GroupView
from testbed.scenario.steering import forward_path, with_shard
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket


class FrameWitness:
    """Takes the frames that a member of a group sends, at the switch's end of its server's link.

    What the process says of itself would not do: it can only be asked after it has run again.
    """

    def __init__(self, switch_interface: str, group: GroupView, member: int) -> None:
        self._path = with_shard(forward_path(group.request), group.key.shard)
        self._hop = group.key.hop + 1
        self._member = member
        self._socket = FrameSocket(switch_interface, [(self._path, self._hop)])

    def __enter__(self) -> FrameWitness:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def count(self) -> int:
        """The frames that the member has sent since the witness was called."""
        frames = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = nsh.decode(self._socket.recv(FRAME_BYTES))
                if frame is None:
                    continue
                hop, member, stamp, _ = frame
                if (stamp.path, hop, member) == (self._path, self._hop, self._member):
                    frames += 1
        return frames
