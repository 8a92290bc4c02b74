"""The open-loop sender of a user host: sends each packet at its time, whatever happens to others.

A late packet is sent at once and never skipped; latency counts from the scheduled time, so a slow
system cannot hide its delay (coordinated omission).
"""

from __future__ import annotations

import errno
import heapq
import json
import resource
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from testbed.records.events import EventLog
from testbed.records.files import write_text
from testbed.records.payload import PayloadMaker
from testbed.records.raw import (
    SCHEDULE_DTYPE,
    RawFormatError,
    Records,
    create_sent,
    read_array,
    sent_path,
)
from testbed.scenario.recording import CONTENT_DTYPE
from traffic.event_loop import Loop, OrderError, Timer, origin_of

COUNTERS_FORMAT = 1
BURST = 64
"""Late packets sent in a row before orders and SIGTERM are looked at."""
CHUNK = 4096
SEND_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Contents:
    """What the packets of a stream carry of a recording, by their number."""

    rows: Records
    payloads: Records

    @classmethod
    def of(cls, spec: Mapping[str, Any], packets: int) -> Contents | None:
        """Those that a stream's config names, if any; raises OSError, ValueError."""
        if "contents" not in spec:
            return None
        rows = read_array(Path(spec["contents"]), CONTENT_DTYPE)
        payloads = read_array(Path(spec["payloads"]), np.dtype(np.uint8))
        ends = rows["offset"] + rows["bytes"]
        if len(rows) != packets or (len(rows) and int(ends.max()) > len(payloads)):
            raise ValueError(
                f"{spec['contents']}: {len(rows)} rows, expected {packets} within "
                f"{len(payloads)} bytes of payloads"
            )
        return cls(rows, payloads)

    def __getitem__(self, number: int) -> bytes:
        offset, size = self.rows[number].tolist()
        return self.payloads[offset : offset + size].tobytes()


class Stream:
    """The packets of one request, a socket for each flow."""

    def __init__(self, spec: Mapping[str, Any], bind: str, out: Path) -> None:
        """`spec` is a stream of `main`'s config; raises OSError, RawFormatError, ValueError."""
        self.request = int(spec["request"])
        self._schedule = read_array(Path(spec["schedule"]), SCHEDULE_DTYPE)
        self._payloads = PayloadMaker(self.request, int(spec["l3_bytes"]))
        sizes = spec.get("sizes")
        self._sizes = None if sizes is None else read_array(Path(sizes), np.dtype(np.uint16))
        if self._sizes is not None and len(self._sizes) != len(self._schedule):
            raise ValueError(f"{sizes}: {len(self._sizes)}, expected {len(self._schedule)} sizes")
        self._contents = Contents.of(spec, len(self._schedule))
        self._target = (str(spec["destination"]), int(spec["destination_port"]))
        flows = int(self._schedule["flow"].max()) + 1 if len(self._schedule) else 0
        self._sockets: list[socket.socket] = []
        try:
            for flow in range(flows):
                self._sockets.append(_bound(bind, int(spec["source_port_base"]) + flow))
            self._sent_ns = create_sent(sent_path(out, self.request), len(self._schedule))
        except (OSError, OverflowError):
            self.close()
            raise
        self._sent_view = self._sent_ns.data
        self._chunk: list[tuple[int, int, int]] = []
        self._chunk_at = 0
        self.next = 0
        self.sent = 0
        self._load(0)

    def __len__(self) -> int:
        return len(self._schedule)

    @property
    def due_ns(self) -> int | None:
        """When the next packet is due, from the run's origin; None after the last."""
        return self._chunk[self.next - self._chunk_at][2] if self.next < len(self) else None

    def send(self, now_ns: int) -> int:
        """Send the next packet, stamped `now_ns` from the origin; the errno, 0 if it was sent."""
        flow, seq, scheduled_ns = self._chunk[self.next - self._chunk_at]
        failure = 0
        try:
            size = None if self._sizes is None else int(self._sizes[self.next])
            content = b"" if self._contents is None else self._contents[self.next]
            payload = self._payloads.make(flow, seq, scheduled_ns, size, content)
            self._sockets[flow].sendto(payload, self._target)
            # Noted after the call: a kill in between leaves a packet that was sent and not
            # noted, which its arrival proves, never one noted that nobody sent.
            self._sent_view[self.next] = now_ns or 1
            self.sent += 1
        except OSError as error:
            failure = error.errno or errno.EIO
        self.next += 1
        if self.next - self._chunk_at == len(self._chunk):
            self._load(self.next)
        return failure

    def close(self) -> None:
        """Close the sockets."""
        for each in self._sockets:
            each.close()

    def _load(self, at: int) -> None:
        self._chunk = self._schedule[at : at + CHUNK].tolist()
        self._chunk_at = at


class Sender:
    """All streams of a user host, merged by time."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._origin_ns: int | None = config.get("origin_ns")
        self._bind = str(config["bind"])
        self._name = str(config.get("name", f"sender-{self._bind}"))
        self._out = Path(config["out"])
        self._out.mkdir(parents=True, exist_ok=True)
        self._streams: dict[int, Stream] = {}
        self._seen: set[int] = set()
        self._due: list[tuple[int, int]] = []
        """When the next packet of each stream is due, from the origin, and of which request."""
        self._sent = 0
        self._unsent = 0
        self._lag_max_ns = 0
        self._errors: Counter[str] = Counter()
        self._events = EventLog(config["events"])
        self._timer = Timer()
        for stream in config.get("streams", ()):
            self._add(stream)

    def run(self, control_socket: str | None) -> None:
        """Send until SIGTERM, then write the counters."""
        handlers = {
            "begin": self._begin_order,
            "add-stream": self._add_order,
            "stop-stream": self._stop_order,
            "stats": lambda _: self.stats(),
        }
        with Loop(control_socket, handlers) as loop:
            loop.add(self._timer.fd)
            while loop.running:
                if self._send_due():
                    loop.wait(0)
                    continue
                if self._due and self._origin_ns is not None:
                    self._timer.arm(max(1, self._origin_ns + self._due[0][0]))
                else:
                    self._timer.disarm()
                loop.wait()
            for stream in list(self._streams.values()):
                self._end(stream)
        self._timer.close()
        path = self._out / f"{self._name}.json"
        write_text(path, json.dumps({"format": COUNTERS_FORMAT, **self.stats()}) + "\n")
        self._events.close()

    def stats(self) -> dict[str, Any]:
        """Counters: sent, unsent (of ended streams), errors by name, lag_max_ns, active."""
        return {
            "sent": self._sent,
            "unsent": self._unsent,
            "errors": dict(self._errors),
            "lag_max_ns": self._lag_max_ns,
            "active": sorted(self._streams),
        }

    def _send_due(self) -> bool:
        """Send what is due, `BURST` packets at most; whether more may be due."""
        origin_ns = self._origin_ns
        if origin_ns is None:
            return False
        for _ in range(BURST):
            now_ns = time.monotonic_ns() - origin_ns
            if not self._due or self._due[0][0] > now_ns:
                return False
            due_ns, request = self._due[0]
            stream = self._streams[request]
            failure = stream.send(now_ns)
            if failure:
                self._errors[errno.errorcode.get(failure, str(failure))] += 1
            else:
                self._sent += 1
            self._lag_max_ns = max(self._lag_max_ns, now_ns - due_ns)
            following_ns = stream.due_ns
            if following_ns is None:
                heapq.heappop(self._due)
                self._end(stream)
            else:
                heapq.heapreplace(self._due, (following_ns, request))
        return True

    def _add(self, spec: Mapping[str, Any]) -> None:
        request = int(spec["request"])
        if request in self._seen:
            raise ValueError(f"request = {request}: a stream of it was added before")
        stream = Stream(spec, self._bind, self._out)
        self._seen.add(request)
        self._streams[request] = stream
        self._events.write("stream-begin", request=request, packets=len(stream))
        due_ns = stream.due_ns
        if due_ns is None:
            self._end(stream)
        else:
            heapq.heappush(self._due, (due_ns, request))

    def _end(self, stream: Stream) -> None:
        stream.close()
        del self._streams[stream.request]
        self._unsent += len(stream) - stream.sent
        self._events.write(
            "stream-end",
            request=stream.request,
            sent=stream.sent,
            unsent=len(stream) - stream.sent,
        )

    def _begin_order(self, order: dict[str, Any]) -> dict[str, Any]:
        if self._origin_ns is not None:
            raise OrderError(f"it began at {self._origin_ns}")
        self._origin_ns = origin_of(order)
        return {}

    def _add_order(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            self._add(order["stream"])
        except KeyError as error:
            raise OrderError(f"add-stream without {error}") from error
        except (OSError, OverflowError, RawFormatError, TypeError, ValueError) as error:
            raise OrderError(f"add-stream: {error}") from error
        return {}

    def _stop_order(self, order: dict[str, Any]) -> dict[str, Any]:
        stream = self._streams.get(order.get("request", -1))
        if stream is None:
            raise OrderError(f"request = {order.get('request')!r}: no stream of it is active")
        self._due = [entry for entry in self._due if entry[1] != stream.request]
        heapq.heapify(self._due)
        self._end(stream)
        return {"sent": stream.sent}


def _bound(address: str, port: int) -> socket.socket:
    # Not connected: an ICMP error would otherwise be returned by, and cost, a later packet.
    each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        each.setblocking(False)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        each.bind((address, port))
    except (OSError, OverflowError):
        each.close()
        raise
    return each


def main(config: dict[str, Any]) -> None:
    """The process: sends until SIGTERM.

    config: `bind` (address), `out` (folder for sent files and counters), `events` (path), `streams`
    (may be empty), and optionally `name`, `control_socket` and `origin_ns` (CLOCK_MONOTONIC of the
    run's origin): until it is known, nothing is sent. A stream: `request`, `destination`,
    `destination_port`, `source_port_base` (flow f is sent from this port + f), `l3_bytes`,
    `schedule` (path, see `results.raw`); if packets differ in size, `sizes` (path); if they carry
    what was recorded, `contents` and `payloads` (paths).

    Orders: "begin" {origin_ns}, "add-stream" {stream}, "stop-stream" {request}, "stats", "ping".
    """
    # A socket for each flow: the usual soft limit of 1024 is soon reached.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Sender(config).run(config.get("control_socket"))
