"""The metrics of RFC 6349, from iperf3's reports on two transfers. Pure.

    TCP transfer time ratio   actual over ideal transfer time (section 4.1); its inverse is the
                              throughput ratio
    TCP efficiency            bytes sent that were no retransmissions, in percent (section 4.2)
    buffer delay              how much the mean round-trip time of the transfer is above the
                              baseline, in percent of it (section 4.3)

The baseline is the least round-trip time that was seen: of a transfer that hardly loads the path
(section 3.2), or of the other if its is less.
Ideal is the rate at which the bottleneck carries TCP's payload (section 4.1.1): the slowest link's,
or the packets a second that the chain carries without loss, whichever is less. iperf3 counts
retransmitted segments, each taken here for a full one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from testbed.scenario.errors import RunError

TCP_IP_BYTES = 52
"""Headers of IPv4 and TCP with time stamps."""

Report = Mapping[str, Any]


class IperfError(RunError):
    """iperf3 did not do what it was asked for."""


@dataclass(frozen=True, slots=True)
class TcpMetrics:
    """See the module's text; rates are of TCP's payload."""

    actual_bps: float
    ideal_bps: float
    bottleneck: str
    throughput_ratio: float
    transfer_time_ratio: float | None
    efficiency_percent: float
    retransmitted_segments: int
    mss_bytes: int
    baseline_rtt_ns: int
    mean_rtt_ns: int
    buffer_delay_percent: float
    bandwidth_delay_bytes: float
    max_window_bytes: int
    duration_s: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in throughput.json."""
        return asdict(self)


def tcp_metrics(
    baseline: Report, loaded: Report, link_bps: float, header_bytes: int, chain_pps: float | None
) -> TcpMetrics:
    """The metrics of a transfer; `baseline` and `loaded` are reports of iperf3's client (-J).

    `link_bps` is the L2 rate of the slowest link, `header_bytes` what a frame adds to an IP packet,
    `chain_pps` what the chain carries without loss, if that is known. Raises IperfError.
    """
    for report in (baseline, loaded):
        if "error" in report:
            raise IperfError(str(report["error"]))
    sender, received = _sender(loaded), loaded["end"]["sum_received"]
    mss = int(loaded["start"]["tcp_mss_default"])
    by_link = link_bps * mss / (mss + TCP_IP_BYTES + header_bytes)
    by_chain = None if chain_pps is None else chain_pps * mss * 8
    ideal = by_link if by_chain is None else min(by_link, by_chain)
    actual = float(received["bits_per_second"])
    sent_bytes = int(sender["bytes"])
    again = int(sender["retransmits"])
    base_ns = round(min(_sender(baseline)["min_rtt"], sender["min_rtt"]) * 1000)
    mean_ns = round(sender["mean_rtt"] * 1000)
    if base_ns <= 0 or sent_bytes <= 0:
        raise IperfError(f"{sent_bytes} bytes sent, baseline RTT {base_ns} ns: expected more")
    return TcpMetrics(
        actual_bps=actual,
        ideal_bps=ideal,
        bottleneck="link" if ideal == by_link else "chain",
        throughput_ratio=actual / ideal,
        transfer_time_ratio=ideal / actual if actual > 0 else None,
        efficiency_percent=max(0.0, 100 * (sent_bytes - again * mss) / sent_bytes),
        retransmitted_segments=again,
        mss_bytes=mss,
        baseline_rtt_ns=base_ns,
        mean_rtt_ns=mean_ns,
        buffer_delay_percent=100 * (mean_ns - base_ns) / base_ns,
        bandwidth_delay_bytes=ideal * base_ns / 8e9,
        max_window_bytes=int(sender["max_snd_cwnd"]),
        duration_s=float(sender["seconds"]),
    )


def _sender(report: Report) -> Mapping[str, Any]:
    streams = report["end"]["streams"]
    if not streams:
        raise IperfError("no stream in the report")
    found: Mapping[str, Any] = streams[0]["sender"]
    return found
