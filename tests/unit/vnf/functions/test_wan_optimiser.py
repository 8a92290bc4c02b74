"""WAN optimiser: what one end takes out, the other puts back, or drops."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.packet import Packet as ScapyPacket

from testbed.vnf.functions import content_cache
from testbed.vnf.functions.content_cache import (
    BYTES,
    CONTENT_TAG,
    MAX_CONTENT_BYTES,
    RING_TAG,
    content_key,
    fingerprint,
)
from testbed.vnf.functions.packet import flow_key, parse
from testbed.vnf.functions.sharing import Scope, scope_of
from testbed.vnf.functions.tcp_progress import PROGRESS_TAG, WAYS
from testbed.vnf.functions.wan_optimiser import (
    COUNTS_TAG,
    ESCAPE,
    MARKER,
    TOKEN,
    TOKEN_BYTES,
)
from testbed.vnf.state.records import COUNT, find
from tests.support.functions_support import (
    INSIDE,
    OTHER_INSIDE,
    SERVER,
    Runner,
    buffer_of,
    decoded,
    echo,
    fragments,
    rebuilt,
    tcp,
    tcp6,
    udp,
    udp6,
)

SMALL = {"cache_contents": 64, "max_flows": 64}
MARK = MARKER.to_bytes(8, "big")[:7]
TEXT = bytes(range(200))


class Pair:
    """Two ends with a WAN between them."""

    def __init__(self, **config: Any) -> None:
        self.encoder = Runner("wo", {**SMALL, "role": "encode", **config})
        self.decoder = Runner("wo", {**SMALL, "role": "decode", **config})

    def cross(
        self, packet: ScapyPacket | bytes, at_s: float = 0, lost: bool = False
    ) -> tuple[bytes | None, int]:
        """(what arrives, bytes on the WAN)."""
        sent = self.encoder.send(packet, at_s=at_s)
        assert sent.packet is not None, sent.reason
        if lost:
            return None, len(sent.packet)
        got = self.decoder.send(sent.packet, at_s=at_s)
        assert got.reason in ("", "cache-miss")
        return got.packet, len(sent.packet)


def counts(runner: Runner) -> tuple[int, ...]:
    """(packets, bytes, misses)."""
    return runner.state.get((COUNTS_TAG << 56, 0, 0, 0, 0), (0, 0, 0))[:3]


def segment(
    sequence: int, payload: bytes, flags: str = "PA", sport: int = 5000, make: Any = tcp
) -> ScapyPacket:
    """A TCP segment with a sequence number."""
    made = make(flags, sport=sport, payload=payload)
    made[TCP].seq = sequence & 0xFFFFFFFF
    return made


@pytest.mark.parametrize("make", [udp, udp6])
def test_a_repeated_datagram_crosses_as_a_token(make: Any) -> None:
    pair = Pair()
    for number in range(5):
        sent = make(payload=TEXT)
        if sent.version == 4:
            sent.id = number
        result = pair.encoder.passes(sent)
        assert len(result[UDP].payload) == (TOKEN_BYTES if number else len(TEXT))
        assert bytes(result)[-TOKEN_BYTES:].startswith(MARK) == (number > 0)
        assert bytes(pair.decoder.passes(bytes(result))) == bytes(sent)
    assert counts(pair.encoder) == counts(pair.decoder) == (4, 4 * (200 - TOKEN_BYTES), 0)


@pytest.mark.parametrize("make", [tcp, tcp6])
def test_a_repeated_segment_crosses_as_a_token(make: Any) -> None:
    pair = Pair()
    for number in range(5):
        sent = segment(1000 + 200 * number, TEXT, make=make)
        sent[TCP].options = [("Timestamp", (number, 0))]
        result = pair.encoder.passes(sent)
        assert len(result[TCP].payload) == (TOKEN_BYTES if number else len(TEXT))
        assert bytes(pair.decoder.passes(bytes(result))) == bytes(sent)


def test_headers_with_options_and_extensions() -> None:
    pair = Pair()
    hop = IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrHopByHop()
    for header in (IP(src=INSIDE, dst=SERVER, options=b"\x01" * 8), hop):
        sent = decoded(bytes(header / UDP(sport=1, dport=2) / TEXT))
        assert pair.cross(sent)[0] == bytes(sent)
        arrived, size = pair.cross(sent)
        assert arrived == bytes(sent) and size == len(sent) - len(TEXT) + TOKEN_BYTES


def test_observe_counts_and_changes_nothing() -> None:
    alone, pair = Runner("wo", SMALL), Pair()
    rng = random.Random(8)
    texts = [rng.randbytes(rng.randrange(100, 1400)) for _ in range(6)]
    for number in range(100):
        text = rng.choice(texts)
        sent = udp(payload=text) if number % 2 else segment(2000 * number, text)
        assert bytes(alone.passes(sent)) == bytes(sent)
        assert pair.cross(sent)[0] == bytes(sent)
    assert counts(alone) == counts(pair.encoder)
    assert counts(alone)[0] > 50
    marked = udp(payload=MARK + bytes([TOKEN]) + b"x" * 16)
    assert bytes(alone.passes(marked)) == bytes(marked)


def test_the_reverse_path_changes_the_places() -> None:
    pair = Pair()
    back = udp(SERVER, 53, INSIDE, 5000, TEXT)
    for number in range(3):
        token = pair.decoder.passes(back, reverse=True)
        assert len(token[UDP].payload) == (TOKEN_BYTES if number else len(TEXT))
        assert bytes(pair.encoder.passes(bytes(token), reverse=True)) == bytes(back)


def test_short_payloads_other_protocols_and_fragments_go_on_unchanged() -> None:
    pair = Pair()
    cut = udp(payload=TEXT)
    cut[UDP].len = 100  # shorter than the IP packet: what lies behind is not UDP's
    others = [
        udp(payload=TEXT[:127]),
        echo("echo-request", INSIDE, SERVER),
        IP(src=INSIDE, dst=SERVER, proto=47) / TEXT,
        *fragments(udp(payload=TEXT * 2)),
        *fragments(udp6(payload=MARK + b"x" * 40)),
        decoded(bytes(cut)),
    ]
    for _ in range(3):
        for packet in others:
            assert bytes(pair.encoder.send(packet).packet or b"") == bytes(packet)
            assert bytes(pair.decoder.send(packet).packet or b"") == bytes(packet)
    assert pair.encoder.state == pair.decoder.state == {}


def test_other_flows_are_not_referred_to() -> None:
    pair = Pair()
    first = udp(payload=TEXT)
    assert pair.cross(first)[1] == len(first)
    for other in (
        udp(OTHER_INSIDE, payload=TEXT),
        udp(sport=5001, payload=TEXT),
        udp6(payload=TEXT),
        udp(SERVER, 53, INSIDE, 5000, TEXT),
    ):
        arrived, size = pair.cross(other)
        assert arrived == bytes(other) and size == len(bytes(other))


def test_a_lost_content_is_a_miss_and_goes_in_full_after_a_time() -> None:
    pair = Pair(refresh_s=5)
    sent = udp(payload=TEXT)
    pair.cross(sent, lost=True)
    assert pair.cross(sent, at_s=1)[0] is None
    assert pair.cross(sent, at_s=4.9)[0] is None
    assert counts(pair.decoder) == (0, 0, 2)
    assert pair.cross(sent, at_s=5) == (bytes(sent), len(sent))
    arrived, size = pair.cross(sent, at_s=6)
    assert arrived == bytes(sent) and size < len(sent)


def test_tcp_recovers_because_what_is_sent_again_is_not_encoded() -> None:
    pair = Pair()
    pair.cross(segment(0, TEXT), lost=True)
    again = segment(200, TEXT)
    assert pair.cross(again) == (None, 40 + TOKEN_BYTES)
    assert pair.cross(segment(0, TEXT)) == (bytes(segment(0, TEXT)), 240), "sent again in full"
    assert pair.cross(again) == (bytes(again), 240)
    part = segment(300, TEXT)
    assert pair.cross(part) == (bytes(part), 240), "old bytes and new ones"
    ahead = segment(500, TEXT)
    assert pair.cross(ahead) == (bytes(ahead), 40 + TOKEN_BYTES)


def test_sequence_numbers_wrap_and_connections_begin_anew() -> None:
    pair = Pair()
    start = (1 << 32) - 350
    for number in range(4):
        sent = segment(start + 200 * number, TEXT)
        assert pair.cross(sent) == (bytes(sent), 240 if number == 0 else 40 + TOKEN_BYTES)
    assert pair.cross(segment(3_000_000_000, TEXT))[1] == 240, "far behind: sent again"
    pair.cross(segment(3_000_000_000, b"", "S"))
    assert pair.cross(segment(3_000_000_001, TEXT))[1] == 40 + TOKEN_BYTES
    with_data = segment(7, TEXT, "S")
    assert pair.cross(with_data) == (bytes(with_data), 240), "data in a SYN is not encoded"
    assert pair.cross(segment(8, TEXT))[1] == 240
    assert pair.cross(segment(208, TEXT))[1] == 40 + TOKEN_BYTES


def test_a_segment_of_an_unknown_flow_is_not_encoded() -> None:
    pair = Pair(max_flows=1)
    for sport in range(WAYS + 1):
        assert pair.cross(segment(0, TEXT, sport=sport))[1] == 240
    assert pair.cross(segment(200, TEXT, sport=0))[1] == 240, "it made room for the ninth"
    assert pair.cross(segment(400, TEXT, sport=0))[1] == 40 + TOKEN_BYTES
    assert len(pair.encoder.tagged(PROGRESS_TAG)) == 1


def test_the_cache_is_bounded_and_the_oldest_leave() -> None:
    pair = Pair(cache_contents=16)
    texts = [bytes([number]) * 300 for number in range(100)]
    for text in texts:
        pair.cross(udp(payload=text))
    for end in (pair.encoder, pair.decoder):
        assert len(end.tagged(CONTENT_TAG)) == 16
        assert len(end.tagged(RING_TAG)) == 2
        assert end.records.head[COUNT] <= end.function.capacity
    sizes = [pair.cross(udp(payload=text))[1] for text in texts[86:]]
    assert sizes == [28 + TOKEN_BYTES] * 14, "but for the oldest eighth"
    assert pair.cross(udp(payload=texts[84]))[1] == 328
    assert pair.cross(udp(payload=texts[85]))[1] == 328


@pytest.mark.parametrize("kind", [TOKEN, ESCAPE, 0, 0xFF])
@pytest.mark.parametrize("size", [8, 9, 24, 25, 32, 200, 1464])
def test_payload_that_looks_like_a_token_arrives(kind: int, size: int) -> None:
    pair = Pair()
    for make in (udp(payload=b"x"), segment(0, b"x")):
        sent = make.copy()
        sent[UDP if UDP in sent else TCP].payload = type(sent.lastlayer())(
            (MARK + bytes([kind]) + b"y" * size)[:size]
        )
        sent = decoded(bytes(sent))
        if len(sent) + 8 > 1500:
            assert pair.encoder.dropped(sent) == "marked"
        else:
            assert pair.cross(sent) == (bytes(sent), len(sent) + 8)
            assert pair.cross(sent) == (bytes(sent), len(sent) + 8)


def test_tokens_that_nobody_encoded() -> None:
    decoder = Runner("wo", {**SMALL, "role": "decode"})
    unknown = udp(payload=MARK + bytes([TOKEN]) + b"z" * 16)
    assert decoder.dropped(unknown) == "cache-miss"
    for odd in (MARK + bytes([TOKEN]) + b"z" * 17, MARK + b"?" + b"z" * 16, MARK):
        assert bytes(decoder.passes(udp(payload=odd))) == bytes(udp(payload=odd))


def test_a_token_must_agree_in_length_and_check() -> None:
    pair = Pair()
    pair.cross(udp(payload=TEXT))
    token = bytes(pair.encoder.passes(udp(payload=TEXT))[UDP].payload)
    assert pair.decoder.passes(udp(payload=token))
    for at in range(8, TOKEN_BYTES):
        wrong = bytearray(token)
        wrong[at] ^= 1
        assert pair.decoder.dropped(udp(payload=bytes(wrong))) == "cache-miss"
    assert pair.decoder.dropped(udp(sport=1, payload=token)) == "cache-miss", "another flow"


def test_a_wrong_checksum_stays_wrong_and_none_stays_none() -> None:
    pair = Pair()
    for checksum in (0x1234, 0):
        sent = udp(payload=TEXT)
        sent[UDP].chksum = checksum
        for number in range(2):
            crossed = pair.encoder.send(sent).packet
            assert crossed is not None
            assert (rebuilt(crossed) == crossed) == (checksum == 0)
            assert pair.decoder.send(crossed).packet == bytes(sent)
            assert (len(crossed) < 228) == (number > 0 or checksum == 0)


def test_damage_on_the_way_is_not_spread() -> None:
    """What the decoder keeps is what it got: it is another content than the encoder's."""
    pair = Pair()
    full = pair.encoder.passes(udp(payload=TEXT))
    damaged = bytearray(bytes(full))
    damaged[-1] ^= 0x40
    pair.decoder.send(bytes(damaged))
    token = pair.encoder.passes(udp(payload=TEXT))
    assert pair.decoder.dropped(bytes(token)) == "cache-miss"


def test_contents_of_one_fingerprint_are_never_named() -> None:
    """Two payloads cannot be made to collide, so the record is given another content."""
    pair = Pair()
    sent = udp(payload=TEXT)
    pair.cross(sent)
    raw = bytes(sent)
    buffer = buffer_of(raw)
    view = parse(buffer, len(raw))
    hashes = fingerprint(buffer, view.payload_at, view.length)
    key = content_key(flow_key(view, 4), hashes.key)
    for end in (pair.encoder, pair.decoder):
        row = find(end.records, key)
        for records in (end.records, end.replica):
            records.values[row, content_cache.CONTENT + 3] ^= 1
    assert pair.cross(sent) == (bytes(sent), len(sent)), "compared, not trusted"
    for end in (pair.encoder, pair.decoder):
        assert end.tagged(CONTENT_TAG)[key][BYTES] == 0
    assert pair.cross(sent) == (bytes(sent), len(sent))


def test_fingerprints_differ() -> None:
    rng = random.Random(1)
    base = bytearray(rng.randbytes(160))
    seen = set()
    for bit in range(8 * 160):
        changed = bytearray(base)
        changed[bit // 8] ^= 1 << bit % 8
        seen.add(fingerprint(np.frombuffer(bytes(changed), np.uint8).copy(), 0, 160))
    zeros = np.zeros(400, np.uint8)
    seen |= {fingerprint(zeros, 0, size) for size in range(1, 400)}
    assert len(seen) == 8 * 160 + 399
    assert len({one.key for one in seen}) == len({one.check for one in seen}) == len(seen)


def test_counts_are_mergeable_and_the_rest_is_local() -> None:
    pair = Pair()
    for number in range(3):
        pair.cross(segment(200 * number, TEXT))
    scopes = {key[0] >> 56: scope_of(key) for key in pair.encoder.state}
    assert scopes.pop(COUNTS_TAG) is Scope.MERGEABLE
    assert set(scopes.values()) == {Scope.LOCAL}


Sent = tuple[int, int, int, bool, int]
"""Flow, content, what TCP does (0 goes on, 1 sends the last again, 2 jumps back), lost, pause."""

sendings = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 9),
        st.sampled_from([0, 0, 0, 1, 2]),
        st.booleans(),
        st.sampled_from([0, 0, 1, 9]),
    ),
    max_size=60,
)
contents_sent = st.lists(
    st.one_of(
        st.binary(min_size=0, max_size=60),
        st.binary(min_size=60, max_size=400),
        st.integers(600, MAX_CONTENT_BYTES - 60).map(lambda n: bytes([n % 251]) * n),
        st.binary(max_size=30).map(lambda raw: MARK + raw),
        st.binary(min_size=16, max_size=16).map(lambda raw: MARK + bytes([TOKEN]) + raw),
    ),
    min_size=10,
    max_size=10,
)


class Source:
    """Flows that send contents: UDP and TCP, IPv4 and IPv6."""

    def __init__(self, contents: list[bytes]) -> None:
        self.contents = contents
        self.next = [0xFFFFFF00 + flow for flow in range(5)]
        self.last: dict[int, ScapyPacket] = {}

    def packet(self, flow: int, number: int, step: int) -> ScapyPacket:
        content = self.contents[number]
        if flow < 2:
            return (udp, udp6)[flow](payload=content)
        if step == 1 and flow in self.last:
            return self.last[flow]
        if step == 2:
            self.next[flow] -= 100
        make, sport = ((tcp, 5000), (tcp6, 5000), (tcp, 6000))[flow - 2]
        sent = segment(self.next[flow], content, sport=sport, make=make)
        self.next[flow] += len(content)
        self.last[flow] = sent
        return sent


@settings(max_examples=80, deadline=None)
@given(contents=contents_sent, sent=sendings)
def test_encode_then_decode_is_the_identity(contents: list[bytes], sent: list[Sent]) -> None:
    pair, source, at_s = Pair(cache_contents=16), Source(contents), 0
    for flow, number, step, _, pause in sent:
        at_s += pause
        packet = bytes(source.packet(flow, number, step))
        crossed = pair.encoder.send(packet, at_s=at_s).packet
        assert crossed is not None and rebuilt(crossed) == crossed
        assert pair.decoder.send(crossed, at_s=at_s).packet == packet


@settings(max_examples=80, deadline=None)
@given(contents=contents_sent, sent=sendings)
def test_with_losses_nothing_wrong_is_ever_delivered(
    contents: list[bytes], sent: list[Sent]
) -> None:
    pair, source, at_s, missed = Pair(cache_contents=16), Source(contents), 0, 0
    for flow, number, step, lost, pause in sent:
        at_s += pause
        packet = bytes(source.packet(flow, number, step))
        arrived, _ = pair.cross(packet, at_s, lost)
        assert arrived is None or arrived == packet
        missed += arrived is None and not lost
    assert counts(pair.decoder)[2] == missed


def test_a_tcp_sender_gets_everything_through_a_lossy_wan() -> None:
    """It sends windows of segments, and again what did not arrive, until all has."""
    rng = random.Random(11)
    pair = Pair(cache_contents=16)
    sequence, misses = 5, 0
    for _ in range(60):
        texts = [rng.randbytes(rng.randrange(130, 600)) for _ in range(2)]
        window = []
        for _ in range(8):
            window.append(segment(sequence, rng.choice(texts)))
            sequence += len(window[-1][TCP].payload)
        for attempt in range(50):
            missing = []
            for sent in window:
                lost = rng.random() < 0.2
                arrived, _ = pair.cross(sent, lost=lost)
                if arrived is None:
                    missing.append(sent)
                    assert lost or attempt == 0, "sent again in full, it cannot be missed"
                    misses += not lost
                else:
                    assert arrived == bytes(sent)
            window = missing
        assert not window
    assert misses > 5 and counts(pair.encoder)[0] > 200


def changed(raw: bytes, changes: list[tuple[int, int]]) -> bytes:
    """A payload with bytes changed, from its first 32 and its last."""
    buffer = bytearray(raw)
    for at, value in changes:
        buffer[(at if at < 32 else -1) % len(buffer)] = value
    return bytes(buffer)


@settings(max_examples=150, deadline=None)
@given(
    payloads=st.lists(
        st.tuples(
            st.sampled_from([TEXT, TEXT[::-1], b"z" * 1400, MARK + b"E" + b"q" * 60]),
            st.lists(st.tuples(st.integers(0, 32), st.integers(0, 255)), max_size=3),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_a_decoder_fed_with_anything_stays_sound(
    payloads: list[tuple[bytes, list[tuple[int, int]], bool]],
) -> None:
    """Tokens that were tampered with on the way, and packets that never saw an encoder."""
    pair = Pair(cache_contents=16)
    sent = set()
    for payload, changes, encoded in payloads:
        raw: bytes | None = bytes(udp(payload=payload))
        if encoded:
            raw = pair.encoder.send(raw or b"").packet
        assert raw is not None
        mutated = bytes(udp(payload=changed(raw[28:], changes)))
        sent |= {payload, mutated[28:], mutated[36:]}
        result = pair.decoder.send(mutated)
        if result.packet is not None:
            assert rebuilt(result.packet) == result.packet
            assert result.packet[28:] in sent, "only what was sent, whole, comes out"
