"""The edge process of a user host: packets of its kernel enter chains here, and leave them.

Counters. Packets that the kernel sent were dropped in the TUN device's queue (`tun_drops`), are
`malformed_packets`, `fragments` without a first one, `unclassified`, `send_failed` or `sent`.
Frames that reached the raw socket were lost there (`kernel_drops`), are `malformed`, `foreign` (no
path ends here with them), `duplicates`, `stale` (from before a restart of their stamper, and later
than packets from after it), `write_failed` or `delivered`. `paths` has `sent`, and `delivered`,
`overtaken`, `duplicates` and `stale`, of each base path, over its shards.

Order. A packet that is delivered after one with a later stamp of its flow was overtaken on the way
from the chain's last function: each function has taken packets in the order of their stamps. When a
path ends, the event `order` says of how many packets delivered that is true.

Restarts. An edge that is started again knows nothing of its former life. It needs a higher epoch
(see `testbed.vnf.edge.stamper`) and its orders once more: add-path, accept-path and set-shards.
Answers to connections from before are unclassified until a packet of theirs is delivered, and a
packet that the former process delivered is delivered again if another copy of it comes now.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.records.events import EventLog
from testbed.records.traces import LEFT, REPEATED
from testbed.scenario.steering import BASE_PATHS, base_path, with_shard
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket
from testbed.vnf.dataplane.tun import TunDevice
from testbed.vnf.edge.edge_trace import EdgeTrace
from testbed.vnf.edge.flow_keys import flow_key
from testbed.vnf.edge.stamper import DuplicateFilter, Match, Stamper
from testbed.vnf.process.control_socket import ControlSocket
from testbed.vnf.process.probes import Probes
from testbed.vnf.process.process import Termination, device_drops, prepare_for_packets, write_dump

READ_AT_ONCE = 64


@dataclass(slots=True)
class Exit:
    """A base path that ends here, at `hop`, in some of its shards; answers take `reverse`."""

    hop: int
    reverse: int
    paths: frozenset[int]
    delivered: int = 0
    overtaken: int = 0
    duplicates: int = 0
    stale: int = 0


@dataclass(slots=True)
class Entry:
    """A path that packets enter here; all IPv4 frames of it begin with `prefix`."""

    prefix: bytes
    sent: int = 0


class Edge:
    """Classifier, stamper and duplicate filter between a TUN device and a raw socket."""

    def __init__(
        self,
        name: str,
        mac: str,
        epoch: int,
        frames: FrameSocket,
        tun: TunDevice,
        events: EventLog,
        trace: EdgeTrace | None = None,
    ) -> None:
        self._name = name
        self._mac = nsh.mac_bytes(mac)
        self._frames = frames
        self._tun = tun
        self._events = events
        self._trace = trace
        self._counters: Counter[str] = Counter()
        self._stamper = Stamper(epoch)
        self._duplicates = DuplicateFilter()
        self._entries: dict[int, Entry] = {}
        # By the path of each shard; the shards of a base path share one exit.
        self._exits: dict[int, Exit] = {}
        self._exits_of: dict[int, Exit] = {}

    def read_packets(self) -> None:
        """Stamp what the kernel sent and put it on its way."""
        read, send, stamp_packet = self._tun.read, self._frames.send, self._stamper.stamp
        now_ns = time.monotonic_ns()
        for _ in range(READ_AT_ONCE):
            try:
                packet = read()
            except BlockingIOError:
                return
            stamp = stamp_packet(packet, now_ns)
            if stamp is None:
                continue
            entry = self._entry(stamp.path)
            if self._trace is not None:
                self._trace.entered(stamp, packet)
            try:
                send(nsh.encode(entry.prefix, stamp, packet))
            except OSError:
                self._counters["send_failed"] += 1
            else:
                entry.sent += 1

    def read_frames(self) -> None:
        """Hand the kernel what arrives for the first time."""
        recv, write = self._frames.recv, self._tun.write
        for _ in range(READ_AT_ONCE):
            try:
                data = recv(FRAME_BYTES)
            except OSError:  # nothing more, or the interface went down
                return
            frame = nsh.decode(data)
            if frame is None:
                self._counters["malformed"] += 1
                continue
            hop, _member, stamp, packet = frame
            out = self._exits.get(stamp.path)
            if out is None or out.hop != hop:
                self._counters["foreign"] += 1
                continue
            window = self._duplicates.first_time(stamp)
            if window is None:
                if self._duplicates.is_stale(stamp):
                    out.stale += 1
                else:
                    out.duplicates += 1
                    if self._trace is not None:
                        self._trace.note(REPEATED, stamp)
                continue
            key = flow_key(packet)
            if key is None or key != window.key:
                # The first packet of a flow, the first after a function rewrote it otherwise, a
                # fragment or an ICMP error.
                window.key = key or window.key
                self._stamper.learn(packet, out.reverse, stamp.bucket)
            if self._trace is not None:
                # Before it goes: its receiver may run before this process does again.
                self._trace.note(LEFT, stamp)
            try:
                write(packet)
            except OSError:
                self._counters["write_failed"] += 1
                continue
            out.delivered += 1
            out.overtaken += window.overtaken
            if out.delivered == 1:
                self._events.write("first-delivery", edge=self._name, path=base_path(stamp.path))

    def add_path(self, order: dict[str, Any]) -> dict[str, Any]:
        """Packets of `order["match"]` take `order["path"]` too from now on.

        The destination of a match is an IPv4 or IPv6 address; a path may have several matches.
        """
        match = order["match"]
        rule = Match(
            protocol=_optional_integer(match, "protocol"),
            destination=ipaddress.ip_address(match["destination"]).packed,
            destination_port=_optional_integer(match, "destination_port"),
        )
        path = _base_path(order, "path")
        self._entry(path)
        self._stamper.add_rule(path, rule)
        return {}

    def set_shards(self, order: dict[str, Any]) -> dict[str, Any]:
        """Buckets of `order["path"]` take other shards: `order["shards"]` is {bucket: shard}."""
        path = _base_path(order, "path")
        shards = {int(bucket): shard for bucket, shard in dict(order["shards"]).items()}
        self._stamper.set_shards(path, {bucket: _integer(shards, bucket) for bucket in shards})
        return {}

    def accept_path(self, order: dict[str, Any]) -> dict[str, Any]:
        """Frames of `order["path"]` at `order["hop"]` end here; answers take `reverse`.

        `order["shards"]` are the shards that are accepted, [0] if it is missing; those accepted
        before stay, until the path is removed.
        """
        path, hop = _base_path(order, "path"), int(order["hop"])
        reverse = _base_path(order, "reverse")
        known = self._exits_of.get(path)
        paths = frozenset(with_shard(path, int(shard)) for shard in order.get("shards", (0,)))
        if known is not None:
            paths |= known.paths
        self._frames.set_targets({**self._targets(), **dict.fromkeys(paths, hop)}.items())
        if known is None:
            known = self._exits_of[path] = Exit(hop, reverse, paths)
        known.hop, known.reverse, known.paths = hop, reverse, paths
        self._exits.update(dict.fromkeys(paths, known))
        self._entry(reverse)
        return {}

    def remove_path(self, order: dict[str, Any]) -> dict[str, Any]:
        """Neither enter nor accept `order["path"]` in any shard; it need not be known."""
        path = _base_path(order, "path")
        self._note_order(path)
        self._exits_of.pop(path, None)
        for ways in (self._exits, self._entries):
            for each in [each for each in ways if base_path(each) == path]:
                del ways[each]
        self._stamper.remove_path(path)
        self._duplicates.remove_path(path)
        self._frames.set_targets(self._targets().items())
        return {}

    def stats(self, order: dict[str, Any]) -> dict[str, Any]:
        """The counters (see the module's text)."""
        paths: dict[str, Counter[str]] = {}
        for path, entry in self._entries.items():
            paths.setdefault(str(base_path(path)), Counter())["sent"] += entry.sent
        for path, out in self._exits_of.items():
            counts = {name: getattr(out, name) for name in _OF_EXITS}
            paths.setdefault(str(path), Counter()).update(counts)
        refused = self._stamper.refused
        return {
            **{name: self._counters[name] for name in _COUNTERS},
            "unclassified": refused["unclassified"],
            "fragments": refused["fragments"],
            "malformed_packets": refused["malformed"],
            "kernel_drops": self._frames.kernel_drops(),
            "tun_drops": device_drops(self._tun.name)["tx"],
            "paths": paths,
        }

    def end(self) -> None:
        """Note what is known of the paths that end with the process."""
        for path in self._exits_of:
            self._note_order(path)

    def _note_order(self, path: int) -> None:
        out = self._exits_of.get(path)
        if out is not None and out.delivered:
            counts = {"delivered": out.delivered, "overtaken": out.overtaken}
            self._events.write("order", edge=self._name, path=path, **counts)

    def _targets(self) -> dict[int, int]:
        return {path: out.hop for path, out in self._exits.items()}

    def _entry(self, path: int) -> Entry:
        entry = self._entries.get(path)
        if entry is None:
            entry = self._entries[path] = Entry(nsh.header_prefix(path, 0, 0, self._mac))
        return entry


_OF_EXITS = ("delivered", "overtaken", "duplicates", "stale")
_COUNTERS = ("send_failed", "malformed", "foreign", "write_failed")


def main(config: dict[str, Any]) -> None:
    """The process, until SIGTERM.

    Keys of `config`: name, interface, mac, tun (the device to make), tun_address,
    control_socket, events, dump, epoch (of the stamper, below 2**16; higher than before if the
    edge is started again), tun_address6 if the device gets an IPv6 address too, and trace {"path",
    "rows", "node"}, the file to note packets in (see `testbed.records.traces`), if one is wanted.
    Raises KeyError for a missing key, ValueError for a bad value, OSError, and
    subprocess.CalledProcessError if the TUN device cannot be configured.
    """
    with contextlib.ExitStack() as stack:
        termination = stack.enter_context(Termination())
        events = EventLog(config["events"])
        stack.callback(events.close)
        frames = FrameSocket(config["interface"])
        stack.callback(frames.close)
        tun = TunDevice(config["tun"], config["tun_address"], config.get("tun_address6"))
        stack.callback(tun.close)
        probes = Probes(config["interface"], config["mac"])
        stack.callback(probes.close)
        trace = _open_trace(config)
        edge = Edge(config["name"], config["mac"], config["epoch"], frames, tun, events, trace)
        orders = {
            "add-path": edge.add_path,
            "accept-path": edge.accept_path,
            "set-shards": edge.set_shards,
            "remove-path": edge.remove_path,
            "stats": edge.stats,
            **probes.orders(),
        }
        control = ControlSocket(config["control_socket"], orders)
        stack.callback(control.close)
        prepare_for_packets()
        handlers: dict[int, Callable[[], None]] = {
            tun.fileno(): edge.read_packets,
            frames.fileno(): edge.read_frames,
            probes.fileno(): probes.receive,
            control.fileno(): control.serve,
            termination.fileno(): termination.drain,
        }
        descriptors = list(handlers)
        while not termination.requested:
            # Nothing here depends on time: an idle edge sleeps.
            for descriptor in select.select(descriptors, (), ())[0]:
                handlers[descriptor]()
        edge.end()
        write_dump(config["dump"], {"name": config["name"], "counters": edge.stats({})})


def _open_trace(config: dict[str, Any]) -> EdgeTrace | None:
    trace = config.get("trace")
    if trace is None:
        return None
    return EdgeTrace(trace["path"], trace["rows"], config["name"], trace["node"])


def _base_path(order: dict[str, Any], name: str) -> int:
    path = _integer(order, name)
    if not 0 <= path < BASE_PATHS:
        raise ValueError(f"{name} = {path}: expected a path of shard 0, below {BASE_PATHS}")
    return path


def _integer(fields: Mapping[Any, Any], name: object) -> int:
    value = fields[name]
    if type(value) is not int:
        raise TypeError(f"{name} = {value!r}: expected an integer")
    return value


def _optional_integer(fields: Mapping[str, Any], name: str) -> int | None:
    return None if fields[name] is None else _integer(fields, name)
