"""The edge process of a user host: packets of its kernel enter chains here, and leave them.

Counters. Packets that the kernel sent were dropped in the TUN device's queue (`tun_drops`),
`unclassified`, `send_failed` or `sent`. Frames that reached the raw socket were lost there
(`kernel_drops`), are `malformed`, `foreign` (no path ends here with them), `duplicates`,
`write_failed` or `delivered`. `paths` has `sent`, `delivered` and `duplicates` of each path.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from testbed.results.events import EventLog
from testbed.vnf.control import ControlSocket
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket
from testbed.vnf.dataplane.tun import TunDevice
from testbed.vnf.process import Termination, device_drops, prepare_for_packets, write_dump
from testbed.vnf.stamper import DuplicateFilter, Match, Stamper

READ_AT_ONCE = 64


@dataclass(slots=True)
class Exit:
    """A path that ends here, at `hop`; answers take the path `reverse`."""

    hop: int
    reverse: int
    delivered: int = 0
    duplicates: int = 0


@dataclass(slots=True)
class Entry:
    """A path that packets enter here; all frames of it begin with `prefix`."""

    prefix: bytes
    sent: int = 0


class Edge:
    """Classifier, stamper and duplicate filter between a TUN device and a raw socket."""

    def __init__(
        self, name: str, mac: str, epoch: int, frames: FrameSocket, tun: TunDevice, events: EventLog
    ) -> None:
        self._name = name
        self._mac = nsh.mac_bytes(mac)
        self._frames = frames
        self._tun = tun
        self._events = events
        self._counters: Counter[str] = Counter()
        self._stamper = Stamper(epoch)
        self._duplicates = DuplicateFilter()
        self._entries: dict[int, Entry] = {}
        self._exits: dict[int, Exit] = {}

    def read_packets(self) -> None:
        """Stamp what the kernel sent and put it on its way."""
        read, send, stamp_packet = self._tun.read, self._frames.send, self._stamper.stamp
        for _ in range(READ_AT_ONCE):
            try:
                packet = read()
            except BlockingIOError:
                return
            stamp = stamp_packet(packet)
            if stamp is None:
                self._counters["unclassified"] += 1
                continue
            entry = self._entry(stamp.path)
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
                out.duplicates += 1
                continue
            ends = packet[9:10] + packet[12:24]
            if window.addresses != ends:
                # The first packet of a flow, or the first after a function rewrote it otherwise.
                window.addresses = ends
                self._stamper.learn(packet, out.reverse)
            try:
                write(packet)
            except OSError:
                self._counters["write_failed"] += 1
                continue
            out.delivered += 1
            if out.delivered == 1:
                self._events.write("first-delivery", edge=self._name, path=stamp.path)

    def add_path(self, order: dict[str, Any]) -> dict[str, Any]:
        """Packets of `order["match"]` take `order["path"]` from now on."""
        match = order["match"]
        rule = Match(
            protocol=_optional_integer(match, "protocol"),
            destination=ipaddress.IPv4Address(match["destination"]).packed,
            destination_port=_optional_integer(match, "destination_port"),
        )
        path = int(order["path"])
        self._entry(path)
        self._stamper.add_rule(path, rule)
        return {}

    def accept_path(self, order: dict[str, Any]) -> dict[str, Any]:
        """Frames of `order["path"]` at `order["hop"]` end here; answers take `reverse`."""
        path, out = int(order["path"]), Exit(int(order["hop"]), int(order["reverse"]))
        self._entry(out.reverse)
        targets = {**self._targets(), path: out.hop}
        self._frames.set_targets(targets.items())
        self._exits[path] = out
        return {}

    def remove_path(self, order: dict[str, Any]) -> dict[str, Any]:
        """Neither enter nor accept `order["path"]` any more; it need not be known."""
        path = int(order["path"])
        self._exits.pop(path, None)
        self._entries.pop(path, None)
        self._stamper.remove_path(path)
        self._duplicates.remove_path(path)
        self._frames.set_targets(self._targets().items())
        return {}

    def stats(self, order: dict[str, Any]) -> dict[str, Any]:
        """The counters (see the module's text)."""
        paths: dict[str, dict[str, int]] = {}
        for path, entry in self._entries.items():
            paths.setdefault(str(path), {})["sent"] = entry.sent
        for path, out in self._exits.items():
            counts = {"delivered": out.delivered, "duplicates": out.duplicates}
            paths.setdefault(str(path), {}).update(counts)
        return {
            **{name: self._counters[name] for name in _COUNTERS},
            "kernel_drops": self._frames.kernel_drops(),
            "tun_drops": device_drops(self._tun.name)["tx"],
            "paths": paths,
        }

    def _targets(self) -> dict[int, int]:
        return {path: out.hop for path, out in self._exits.items()}

    def _entry(self, path: int) -> Entry:
        entry = self._entries.get(path)
        if entry is None:
            entry = self._entries[path] = Entry(nsh.header_prefix(path, 0, 0, self._mac))
        return entry


_COUNTERS = (
    "unclassified",
    "send_failed",
    "malformed",
    "foreign",
    "write_failed",
)


def main(config: dict[str, Any]) -> None:
    """The process, until SIGTERM.

    Keys of `config`: name, interface, mac, tun (the device to make), tun_address,
    control_socket, events, dump, epoch (of the stamper, below 2**16).
    Raises KeyError for a missing key, ValueError for a bad value, OSError, and
    subprocess.CalledProcessError if the TUN device cannot be configured.
    """
    with contextlib.ExitStack() as stack:
        termination = stack.enter_context(Termination())
        events = EventLog(config["events"])
        stack.callback(events.close)
        frames = FrameSocket(config["interface"])
        stack.callback(frames.close)
        tun = TunDevice(config["tun"], config["tun_address"])
        stack.callback(tun.close)
        edge = Edge(config["name"], config["mac"], config["epoch"], frames, tun, events)
        orders = {
            "add-path": edge.add_path,
            "accept-path": edge.accept_path,
            "remove-path": edge.remove_path,
            "stats": edge.stats,
        }
        control = ControlSocket(config["control_socket"], orders)
        stack.callback(control.close)
        prepare_for_packets()
        handlers: dict[int, Callable[[], None]] = {
            tun.fileno(): edge.read_packets,
            frames.fileno(): edge.read_frames,
            control.fileno(): control.serve,
            termination.fileno(): termination.drain,
        }
        descriptors = list(handlers)
        while not termination.requested:
            # Nothing here depends on time: an idle edge sleeps.
            for descriptor in select.select(descriptors, (), ())[0]:
                handlers[descriptor]()
        write_dump(config["dump"], {"name": config["name"], "counters": edge.stats({})})


def _optional_integer(fields: dict[str, Any], name: str) -> int | None:
    value = fields[name]
    if value is not None and type(value) is not int:
        raise TypeError(f"{name} = {value!r}: expected an integer or null")
    return value
