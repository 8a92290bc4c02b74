"""The NAT's mappings, sessions and port pool, kept in a function's state.

Keys and values (protocol is 1 byte, port 2, an endpoint 4 bytes of address and 2 of port; an ICMP
query's identifier stands for its port, and its remote port is 0):

    "i" protocol internal-endpoint     -> public port
    "e" protocol port                  -> (internal endpoint, expires_ns, remote endpoints)
    "s" protocol port remote-endpoint  -> (TCP bits, expires_ns)
    "c" protocol class                 -> the port at which the next search starts
    "f" protocol class                 -> no port of this class becomes free before this time

"i" and "e" always point at each other. The port pool is shared by all flows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, cast

from testbed.vnf.functions.packet import FIN, ICMP, RST, SYN, TCP
from testbed.vnf.functions.table import REFRESH_NS
from testbed.vnf.state import Key, Value

Changes: TypeAlias = "list[tuple[Key, Value | None]]"
_Mapping: TypeAlias = tuple[bytes, int, tuple[bytes, ...]]
_Session: TypeAlias = tuple[int, int]

MAX_REMOTES = 64
"""Sessions of one mapping; beyond it the one that would expire first goes."""

SYN_OUT, SYN_IN, FIN_OUT, FIN_IN, RESET = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Idle times after which a mapping or session is gone, at the least.

    UDP: no less than 2 minutes, 5 recommended (RFC 4787 REQ-5). TCP: no less than 2 h 4 min once
    established, no less than 4 min while opening or closing (RFC 5382 REQ-5); a reset leaves it
    closing (RFC 7857 2.2). ICMP queries: no less than 60 s (RFC 5508 REQ-2).
    """

    udp_ns: int
    tcp_established_ns: int
    tcp_transitory_ns: int
    icmp_ns: int


class Found(NamedTuple):
    """A live mapping; `known` is False if it is made by the packet at hand."""

    protocol: bytes
    port: bytes
    internal: bytes
    expires_ns: int
    remotes: tuple[bytes, ...]
    known: bool


class _PortClass(NamedTuple):
    tag: bytes
    first: int
    last: int
    step: int


@dataclass(frozen=True, slots=True)
class NatTable:
    """Rules of the mapping table; ports from 1024 up are taken from first_port..last_port."""

    first_port: int
    last_port: int
    timeouts: Timeouts

    def by_internal(
        self, state: Mapping[Key, Value], protocol: bytes, internal: bytes, now_ns: int
    ) -> Found | None:
        """The live mapping of an internal endpoint."""
        port = cast("bytes | None", state.get(b"i" + protocol + internal))
        return None if port is None else self.by_port(state, protocol, port, now_ns)

    def by_port(
        self, state: Mapping[Key, Value], protocol: bytes, port: bytes, now_ns: int
    ) -> Found | None:
        """The live mapping of a public port."""
        record = cast("_Mapping | None", state.get(b"e" + protocol + port))
        if record is None or record[1] <= now_ns:
            return None
        return Found(protocol, port, record[0], record[1], record[2], True)

    def admits(
        self,
        state: Mapping[Key, Value],
        found: Found,
        remote: bytes,
        any_port: bool,
        now_ns: int,
    ) -> bool:
        """True if the mapping has a live session with `remote`, or with its address."""
        prefix = b"s" + found.protocol + found.port
        session = cast("_Session | None", state.get(prefix + remote))
        if session is not None and session[1] > now_ns:
            return True
        address = remote[:4]
        return any_port and any(
            known[:4] == address and cast(_Session, state[prefix + known])[1] > now_ns
            for known in found.remotes
        )

    def allocate(
        self,
        state: Mapping[Key, Value],
        changes: Changes,
        protocol: bytes,
        internal: bytes,
        now_ns: int,
    ) -> Found | None:
        """A public port for an internal endpoint that has no live mapping; None if all are used."""
        expired = cast("bytes | None", state.get(b"i" + protocol + internal))
        if expired is not None:
            _release(state, changes, protocol, expired)
        wanted = int.from_bytes(internal[4:], "big")
        ports = self._class(protocol, wanted)
        port = self._free_port(state, changes, protocol, wanted, ports, now_ns)
        if port is None:
            return None
        _release(state, changes, protocol, port)
        changes.append((b"i" + protocol + internal, port))
        return Found(protocol, port, internal, 0, (), False)

    def touch(
        self,
        state: Mapping[Key, Value],
        changes: Changes,
        found: Found,
        remote: bytes,
        flags: int,
        inbound: bool,
        now_ns: int,
    ) -> None:
        """Note a packet of the session with `remote`: TCP state and timers of both."""
        prefix = b"s" + found.protocol + found.port
        session = cast("_Session | None", state.get(prefix + remote)) if found.known else None
        live = session is not None and session[1] > now_ns
        bits = before = session[0] if live and session is not None else 0
        if found.protocol[0] == TCP:
            bits = _next_bits(before, flags, inbound)
        expires_ns = now_ns + self._timeout_ns(found.protocol[0], bits) + REFRESH_NS
        shortened = session is not None and live and expires_ns < session[1] - REFRESH_NS
        if (
            not live
            or bits != before
            or shortened
            or (session is not None and expires_ns - session[1] >= REFRESH_NS)
        ):
            changes.append((prefix + remote, (bits, expires_ns)))
        remotes = found.remotes
        if session is None:
            remotes = (*_make_room(state, changes, prefix, remotes), remote)
        until_ns = max(found.expires_ns, expires_ns)
        if shortened:
            until_ns = max(
                [expires_ns]
                + [cast(_Session, state[prefix + r])[1] for r in remotes if r != remote]
            )
            self._no_longer_full(state, changes, found)
        if (
            remotes is not found.remotes
            or until_ns < found.expires_ns
            or until_ns - found.expires_ns >= REFRESH_NS
        ):
            record = (found.internal, until_ns, remotes)
            changes.append((b"e" + found.protocol + found.port, record))

    def _timeout_ns(self, protocol: int, bits: int) -> int:
        timeouts = self.timeouts
        if protocol == TCP:
            opened = bits & (SYN_OUT | SYN_IN) == SYN_OUT | SYN_IN
            if opened and not _closing(bits):
                return timeouts.tcp_established_ns
            return timeouts.tcp_transitory_ns
        return timeouts.icmp_ns if protocol == ICMP else timeouts.udp_ns

    def _class(self, protocol: bytes, port: int) -> _PortClass:
        """The ports that may stand for `port`: RFC 4787 REQ-3 a (range) and REQ-4 (parity)."""
        if protocol[0] == ICMP:
            return _PortClass(b"\0", 0, 65_535, 1)
        odd = port & 1
        if port < 1024:
            return _PortClass(bytes((1 + odd,)), 1 if odd else 2, 1023 if odd else 1022, 2)
        first = self.first_port + ((self.first_port ^ odd) & 1)
        last = self.last_port - ((self.last_port ^ odd) & 1)
        return _PortClass(bytes((3 + odd,)), first, last, 2)

    def _free_port(
        self,
        state: Mapping[Key, Value],
        changes: Changes,
        protocol: bytes,
        wanted: int,
        ports: _PortClass,
        now_ns: int,
    ) -> bytes | None:
        prefix = b"e" + protocol
        if ports.first <= wanted <= ports.last:
            port = wanted.to_bytes(2, "big")
            record = cast("_Mapping | None", state.get(prefix + port))
            if record is None or record[1] <= now_ns:
                return port
        full_key = b"f" + protocol + ports.tag
        if cast(int, state.get(full_key, 0)) > now_ns:
            return None
        cursor_key = b"c" + protocol + ports.tag
        number = cast(int, state.get(cursor_key, ports.first))
        earliest_ns = 0
        for _ in range(ports.first, ports.last + 1, ports.step):
            port = number.to_bytes(2, "big")
            number = number + ports.step if number < ports.last else ports.first
            record = cast("_Mapping | None", state.get(prefix + port))
            if record is None or record[1] <= now_ns:
                changes.append((cursor_key, number))
                return port
            earliest_ns = min(earliest_ns or record[1], record[1])
        changes.append((full_key, earliest_ns))
        return None

    def _no_longer_full(self, state: Mapping[Key, Value], changes: Changes, found: Found) -> None:
        """A mapping of this class will end sooner than was thought when the class was full."""
        tag = self._class(found.protocol, int.from_bytes(found.port, "big")).tag
        key = b"f" + found.protocol + tag
        if key in state:
            changes.append((key, None))


def _closing(bits: int) -> bool:
    return bool(bits & RESET) or bits & (FIN_OUT | FIN_IN) == FIN_OUT | FIN_IN


def _next_bits(bits: int, flags: int, inbound: bool) -> int:
    """Which SYNs, FINs and resets a TCP session has seen; a SYN after its end starts a new one."""
    if flags & SYN:
        if _closing(bits):
            bits = 0
        bits |= SYN_IN if inbound else SYN_OUT
    if flags & FIN:
        bits |= FIN_IN if inbound else FIN_OUT
    return bits | RESET if flags & RST else bits


def _release(state: Mapping[Key, Value], changes: Changes, protocol: bytes, port: bytes) -> None:
    """Remove the expired mapping of a port, if there is one, and its sessions."""
    record = cast("_Mapping | None", state.get(b"e" + protocol + port))
    if record is None:
        return
    changes.append((b"i" + protocol + record[0], None))
    changes.append((b"e" + protocol + port, None))
    changes.extend((b"s" + protocol + port + remote, None) for remote in record[2])


def _make_room(
    state: Mapping[Key, Value], changes: Changes, prefix: bytes, remotes: tuple[bytes, ...]
) -> tuple[bytes, ...]:
    """`remotes` with place for one more."""
    if len(remotes) < MAX_REMOTES:
        return remotes
    first = min(remotes, key=lambda remote: (cast(_Session, state[prefix + remote])[1], remote))
    changes.append((prefix + first, None))
    return tuple(remote for remote in remotes if remote != first)
