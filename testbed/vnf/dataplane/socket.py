"""The raw socket of an instance or an edge: frames of chosen hops of chosen paths alone."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable

from testbed.vnf.dataplane.nsh import ETHERTYPE_NSH, OPERATIONS_AT, OPERATIONS_BIT

SOL_PACKET = 263
PACKET_STATISTICS = 6
PACKET_IGNORE_OUTGOING = 23
SO_ATTACH_FILTER = 26
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 4 << 20
FRAME_BYTES = 2048
"""Room for a frame; the interfaces have an MTU of 1500."""
MAX_TARGETS = 800
"""A classic BPF program has 4096 instructions at most; a target takes five."""

_LOAD_WORD, _LOAD_BYTE, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x30, 0x15, 0x45, 0x06
_INSTRUCTION = struct.Struct("HBBI")
_STATISTICS = struct.Struct("II")
_PROGRAM = struct.Struct("@HP")
_WHOLE = 0xFFFFFFFF


def target_filter(targets: Iterable[tuple[int, int]]) -> bytes:
    """A classic BPF program that passes frames for these (path, hop), from any member; no probes.

    Raises ValueError for more than `MAX_TARGETS`.
    """
    chosen = sorted(set(targets))
    if len(chosen) > MAX_TARGETS:
        raise ValueError(f"{len(chosen)} hops for one socket: expected {MAX_TARGETS} at most")
    code = [
        _INSTRUCTION.pack(_LOAD_BYTE, 0, 0, OPERATIONS_AT),
        _INSTRUCTION.pack(_JUMP_SET, 0, 1, OPERATIONS_BIT),
        _INSTRUCTION.pack(_RETURN, 0, 0, 0),
    ]
    for path, hop in chosen:
        code += [
            _INSTRUCTION.pack(_LOAD_WORD, 0, 0, 0),
            _INSTRUCTION.pack(_JUMP_EQUAL, 0, 3, 2 << 24 | path),
            _INSTRUCTION.pack(_LOAD_BYTE, 0, 0, 4),
            _INSTRUCTION.pack(_JUMP_EQUAL, 0, 1, hop),
            _INSTRUCTION.pack(_RETURN, 0, 0, _WHOLE),
        ]
    return b"".join([*code, _INSTRUCTION.pack(_RETURN, 0, 0, 0)])


def probe_filter() -> bytes:
    """A classic BPF program that passes probes alone (`nsh.probe`)."""
    return b"".join(
        [
            _INSTRUCTION.pack(_LOAD_BYTE, 0, 0, OPERATIONS_AT),
            _INSTRUCTION.pack(_JUMP_SET, 0, 1, OPERATIONS_BIT),
            _INSTRUCTION.pack(_RETURN, 0, 0, _WHOLE),
            _INSTRUCTION.pack(_RETURN, 0, 0, 0),
        ]
    )


class FrameSocket:
    """A non-blocking packet socket on `interface`.

    Received frames are those that `set_targets` asked for last, or with `probes` all probes and
    nothing else; what this host sends is not received. Needs CAP_NET_RAW and CAP_NET_ADMIN. Raises
    OSError if the interface is missing.
    """

    def __init__(
        self, interface: str, targets: Iterable[tuple[int, int]] = (), *, probes: bool = False
    ) -> None:
        # Protocol 0 receives nothing: the filter is in place before bind() opens the tap.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES)
            self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            self._attach(probe_filter() if probes else target_filter(targets))
            # Bound to one Ethernet type, the kernel does not even show it other frames.
            self._socket.bind((interface, ETHERTYPE_NSH))
        except OSError:
            self._socket.close()
            raise
        self.recv = self._socket.recv
        """recv(FRAME_BYTES) -> the next frame; BlockingIOError when there is none."""
        self.send = self._socket.send
        """send(frame); BlockingIOError or another OSError when it cannot leave."""
        self._kernel_drops = 0

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._socket.fileno()

    def set_targets(self, targets: Iterable[tuple[int, int]]) -> None:
        """Receive frames for these (path, hop) from now on; frames already queued stay."""
        self._attach(target_filter(targets))

    def _attach(self, program: bytes) -> None:
        buffer = ctypes.create_string_buffer(program, len(program))
        count = len(program) // _INSTRUCTION.size
        option = _PROGRAM.pack(count, ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, option)

    def kernel_drops(self) -> int:
        """Frames that the kernel dropped so far because this socket's buffer was full."""
        # Reading the statistics resets them.
        raw = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
        self._kernel_drops += _STATISTICS.unpack(raw)[1]
        return self._kernel_drops

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
