"""Recorded packets: a capture file in pcap or pcapng, and what a replay needs of it.

IP packets of either version are read from the link types Ethernet (with VLAN tags), Linux cooked
(1 and 2), BSD loopback and raw IP. A flow is a protocol, two addresses and two ports in one
direction; a fragment without ports is of the flow without ports.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.scenario.errors import InputError
from testbed.scenario.link_types import link_name
from testbed.scenario.pcap import CaptureError, Frame, frames
from testbed.scenario.sizes import MAX_L3_BYTES, MIN_L3_BYTES

CONTENT_DTYPE = np.dtype([("offset", "<u8"), ("bytes", "<u2")])
"""Where a packet's payload lies in the payloads of all."""

FIELD = "traffic.process.file"
_NS_PER_S = 1_000_000_000
MAX_CAPTURE_BYTES = 1 << 28
MAX_PAYLOAD_BYTES = 0xFFFF
MAX_SPAN_NS = 1_000_000_000 * _NS_PER_S
"""A file is this large, a packet's payload this long, and packets this far apart, at most."""
_ETHERNET, _IPV4, _IPV6 = 1, 0x0800, 0x86DD
_VLAN = (0x8100, 0x88A8, 0x9100)
_RAW = (12, 14, 101, 228, 229)
_COOKED = {113: (14, 16), 276: (0, 20)}
"""Link type: where the protocol stands, and how long the header is."""
_LOOPBACK = (0, 108)
_READ = "Ethernet, Linux cooked capture, BSD loopback or raw IP"
_TCP, _UDP, _WITH_PORTS = 6, 17, (6, 17, 33, 132, 136)
_EXTENSIONS = (0, 43, 60, 135)
"""IPv6 headers that name the next one and their length alike: RFC 8200 section 4, RFC 6275."""
_FRAGMENT = 44


@dataclass(frozen=True, slots=True)
class Recording:
    """A capture file, by its path and what was in it when the scenario was planned.

    `skipped`: frames that hold no whole IP header. `span_ns`: from the first packet to the last.
    `raised` and `cut`: packets that are replayed larger or smaller, since a test packet has
    `MIN_L3_BYTES` to `MAX_L3_BYTES`; `mean_l3_bytes` is of packets as they are replayed.
    """

    path: str
    sha256: str
    packets: int
    skipped: int
    flows: int
    span_ns: int
    raised: int
    cut: int
    mean_l3_bytes: float

    @property
    def mean_pps(self) -> float:
        """Packets per second, by the mean time between two."""
        return (self.packets - 1) * _NS_PER_S / self.span_ns


@dataclass(frozen=True, slots=True)
class RecordedPackets:
    """The IP packets of a file by time; each array has one element a packet.

    times_ns   int64, from the first packet
    l3_bytes   int64, length of the packet on the wire
    flows      int64, number of the flow, counted in the order in which they begin
    contents   CONTENT_DTYPE, what was captured above UDP, TCP or IP, in `payloads`
    """

    times_ns: NDArray[np.int64]
    l3_bytes: NDArray[np.int64]
    flows: NDArray[np.int64]
    contents: NDArray[np.void]
    payloads: bytes
    skipped: int


def load_recording(path: str) -> Recording:
    """A capture file that can be replayed; raises InputError."""
    path = str(Path(path).resolve())  # as the senders' schedules name it: it is parsed once
    digest = hashlib.sha256(_content(path)).hexdigest()
    found = read_recording(path, digest)
    span_ns = int(found.times_ns[-1]) if len(found.times_ns) else 0
    if span_ns <= 0:
        raise InputError(FIELD, path, "at least two IP packets at two times")
    return Recording(
        path=path,
        sha256=digest,
        packets=len(found.times_ns),
        skipped=found.skipped,
        flows=int(found.flows.max()) + 1,
        span_ns=span_ns,
        raised=int((found.l3_bytes < MIN_L3_BYTES).sum()),
        cut=int((found.l3_bytes > MAX_L3_BYTES).sum()),
        mean_l3_bytes=float(fitting(found.l3_bytes).mean()),
    )


def fitting(l3_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sizes that packets of these sizes are replayed with."""
    return np.clip(l3_bytes, MIN_L3_BYTES, MAX_L3_BYTES)


@functools.lru_cache(maxsize=4)
def read_recording(path: str, sha256: str) -> RecordedPackets:
    """The packets of the file, whose digest is `sha256`; raises InputError."""
    content = _content(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(FIELD, path, "a file that does not change while it is used")
    times, sizes, flows, lengths, payloads = [], [], [], [], bytearray()
    numbers: dict[bytes, int] = {}
    skipped = 0
    for time_ns, link_type, frame, wire_bytes in _frames(content, path):
        at = _ip_at(link_type, frame, path)
        packet = None if at is None else _parse(frame[at:], max(0, wire_bytes - at))
        if packet is None:
            skipped += 1
            continue
        flow, l3_bytes, payload = packet
        payload = payload[:MAX_PAYLOAD_BYTES]
        times.append(time_ns)
        sizes.append(l3_bytes)
        flows.append(flow)
        lengths.append(len(payload))
        payloads += payload
    contents = np.zeros(len(times), CONTENT_DTYPE)
    contents["bytes"] = lengths
    contents["offset"] = np.cumsum(lengths, dtype=np.uint64) - contents["bytes"]
    first_ns = min(times, default=0)
    if max(times, default=0) - first_ns > MAX_SPAN_NS:
        raise InputError(FIELD, path, f"packets within {MAX_SPAN_NS // _NS_PER_S} seconds")
    since_ns = np.array([time_ns - first_ns for time_ns in times], np.int64)
    # Captures of several interfaces are not always in order.
    order = np.argsort(since_ns, kind="stable")
    of_flow = np.array(
        [numbers.setdefault(flows[index], len(numbers)) for index in order.tolist()], np.int64
    )
    return RecordedPackets(
        times_ns=since_ns[order],
        l3_bytes=np.array(sizes, np.int64)[order],
        flows=of_flow,
        contents=contents[order],
        payloads=bytes(payloads),
        skipped=skipped,
    )


def _content(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_CAPTURE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(FIELD, path, f"a readable file ({error})") from error
    if len(content) > MAX_CAPTURE_BYTES:
        raise InputError(FIELD, path, f"a capture of at most {MAX_CAPTURE_BYTES} bytes")
    return content


def _unpacked(content: bytes) -> bytes:
    """What a file that gzip compressed holds; any other as it is."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            found = file.read(MAX_CAPTURE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(f"a whole file of gzip ({error})") from error
    if len(found) > MAX_CAPTURE_BYTES:
        raise CaptureError(f"a capture of at most {MAX_CAPTURE_BYTES} bytes")
    return found


def _frames(content: bytes, path: str) -> Iterator[Frame]:
    try:
        yield from frames(_unpacked(content))
    except CaptureError as error:
        raise InputError(FIELD, path, str(error)) from error


def _ip_at(link_type: int, frame: bytes, path: str) -> int | None:
    """Where the IP header begins; None if the frame holds none."""
    if link_type in _RAW:
        return 0
    if link_type in _LOOPBACK:
        return 4
    if link_type in _COOKED:
        at, length = _COOKED[link_type]
    elif link_type == _ETHERNET:
        at, length = 12, 14
        while frame[at : at + 2] and int.from_bytes(frame[at : at + 2]) in _VLAN:
            at, length = at + 4, length + 4
    else:
        raise InputError(FIELD, f"{path}, of {link_name(link_type)}", f"frames of {_READ}")
    protocol = int.from_bytes(frame[at : at + 2])
    return length if protocol in (_IPV4, _IPV6) else None


def _parse(packet: bytes, wire_bytes: int) -> tuple[bytes, int, bytes] | None:
    """(flow, L3 bytes, payload) of an IP packet; None if its header is not whole."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return _parse_4(packet, wire_bytes)
    if version == 6 and len(packet) >= 40:
        return _parse_6(packet, wire_bytes)
    return None


def _parse_4(packet: bytes, wire_bytes: int) -> tuple[bytes, int, bytes] | None:
    header = (packet[0] & 15) * 4
    total, fragment = struct.unpack_from("!2xH2xH", packet)
    # 0: the sender's network card was to cut it into packets.
    l3_bytes = total or wire_bytes
    if header < 20 or l3_bytes < header:
        return None
    first = fragment & 0x1FFF == 0
    protocol = packet[9]
    flow = bytes((protocol,)) + packet[12:20]
    ports, payload = _transport(protocol if first else -1, packet[header:l3_bytes])
    return flow + ports, l3_bytes, payload


def _parse_6(packet: bytes, wire_bytes: int) -> tuple[bytes, int, bytes]:
    (length,) = struct.unpack_from("!4xH", packet)
    l3_bytes = 40 + length if length else wire_bytes
    following, at, first = packet[6], 40, True
    while following in (*_EXTENSIONS, _FRAGMENT) and len(packet) >= at + 8:
        if following == _FRAGMENT:
            first = int.from_bytes(packet[at + 2 : at + 4]) >> 3 == 0
            following, at = packet[at], at + 8
        else:
            following, at = packet[at], at + 8 + 8 * packet[at + 1]
    flow = bytes((following,)) + packet[8:40]
    ports, payload = _transport(following if first else -1, packet[at:l3_bytes])
    return flow + ports, l3_bytes, payload


def _transport(protocol: int, content: bytes) -> tuple[bytes, bytes]:
    """The ports, empty if there are none, and what TCP or UDP carries; else all of it."""
    if protocol not in _WITH_PORTS or len(content) < 4:
        return b"", content
    header = 0
    if protocol == _UDP:
        header = 8
    elif protocol == _TCP and len(content) > 12:
        header = (content[12] >> 4) * 4
    return content[:4], content[header:]
