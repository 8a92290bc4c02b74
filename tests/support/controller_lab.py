"""Three real switches in a triangle, a host in a namespace at each, and the controller process."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from controller.client import ControllerClient
from controller.wiring import Wiring
from testbed.scenario.steering import Segment
from tests.support.controller_support import make_wiring

ETHER_TYPE = 0x88B5  # for local experiments
BOUND_S = 30.0
NODES = 3
# s0 to s2 by s1: 4 us; straight: 9 us. Hosts user-i are wired on paper only.
LINKS = [(0, 1, 2_000), (1, 2, 2_000), (0, 2, 9_000)]


def until(condition: Callable[[], bool], what: str, bound_s: float = BOUND_S) -> None:
    """Wait for `condition`; fail with `what` after `bound_s`."""
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {bound_s} s"
        time.sleep(0.01)


def command(*words: str) -> str:
    """What a tool prints; raises CalledProcessError."""
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=BOUND_S)
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Triangle:
    """Bridges, veth links, hosts; all of it goes when the context ends."""

    def __init__(self) -> None:
        self.mark = f"c{os.getpid():x}"
        self.wiring: Wiring = make_wiring(NODES, LINKS)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Triangle:
        with contextlib.ExitStack() as stack:
            for node in range(NODES):
                self._bridge(stack, node)
            for link in self.wiring.links:
                self._link(stack, int(link.a[1:]), link.a_port, int(link.b[1:]), link.b_port)
            for node in range(NODES):
                self._host(stack, node)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def bridge(self, node: int) -> str:
        return f"{self.mark}s{node}"

    def namespace(self, node: int) -> str:
        return f"{self.mark}h{node}"

    def point_at(self, port: int) -> None:
        """Let all switches connect to the controller at `port`."""
        for node in range(NODES):
            self.connect(node, port)

    def connect(self, node: int, port: int) -> None:
        command("ovs-vsctl", "set-controller", self.bridge(node), f"tcp:127.0.0.1:{port}")
        # Tries again at once instead of doubling its pauses up to 8 s.
        command("ovs-vsctl", "set", "controller", self.bridge(node), "max_backoff=1000")

    def disconnect(self, node: int) -> None:
        command("ovs-vsctl", "del-controller", self.bridge(node))

    def flows(self, node: int) -> list[str]:
        """The switch's flows, without their counters."""
        bridge = self.bridge(node)
        text = command("ovs-ofctl", "-O", "OpenFlow13", "--no-stats", "dump-flows", bridge)
        return sorted(line.strip() for line in text.splitlines() if "priority" in line)

    def groups(self, node: int) -> list[str]:
        text = command("ovs-ofctl", "-O", "OpenFlow13", "dump-groups", self.bridge(node))
        return sorted(line.strip() for line in text.splitlines() if "group_id" in line)

    def trace(self, node: int, in_port: int, mac: str) -> str:
        """What Open vSwitch says it would do with a frame."""
        flow = f"in_port={in_port},dl_dst={mac},dl_type={ETHER_TYPE:#x}"
        return command("ovs-appctl", "ofproto/trace", self.bridge(node), flow)

    def _bridge(self, stack: contextlib.ExitStack, node: int) -> None:
        bridge = self.bridge(node)
        stack.callback(command, "ovs-vsctl", "--if-exists", "del-br", bridge)
        settings = ["datapath_type=netdev", "fail_mode=secure", "protocols=OpenFlow13"]
        settings.append(f"other-config:datapath-id={self.wiring.switches[node].dpid:016x}")
        command("ovs-vsctl", "add-br", bridge, "--", "set", "bridge", bridge, *settings)

    def _link(self, stack: contextlib.ExitStack, a: int, a_port: int, b: int, b_port: int) -> None:
        """A veth pair: patch ports would make one cached action of a whole path."""
        near, far = f"{self.mark}p{a}{b}", f"{self.mark}p{b}{a}"
        command("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        stack.callback(command, "ip", "link", "del", near)
        self._plug(a, near, a_port)
        self._plug(b, far, b_port)

    def _plug(self, node: int, interface: str, port: int) -> None:
        command("ip", "link", "set", interface, "up")
        command(
            *("ovs-vsctl", "add-port", self.bridge(node), interface),
            *("--", "set", "interface", interface, f"ofport_request={port}"),
        )

    def _host(self, stack: contextlib.ExitStack, node: int) -> None:
        namespace, port = self.namespace(node), f"{self.mark}v{node}"
        command("ip", "netns", "add", namespace)
        stack.callback(command, "ip", "netns", "del", namespace)
        peer = ["peer", "name", "eth0", "netns", namespace]
        command("ip", "link", "add", port, "type", "veth", *peer)
        command("ip", "-n", namespace, "link", "set", "eth0", "up")
        self._plug(node, port, 1)

    @contextlib.contextmanager
    def host(self, node: int) -> Iterator[Host]:
        """A raw socket on the host's interface."""
        made = Host(self.namespace(node))
        try:
            yield made
        finally:
            made.close()


class Host:
    """Sends and collects frames inside a namespace."""

    def __init__(self, namespace: str) -> None:
        opened: list[socket.socket] = []
        failed: list[OSError] = []

        def inside() -> None:
            try:
                with open(f"/run/netns/{namespace}") as place:
                    _setns(place.fileno())
                raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHER_TYPE))
                raw.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
                raw.bind(("eth0", ETHER_TYPE))
                opened.append(raw)
            except OSError as error:
                failed.append(error)

        # A thread of its own: only its namespace changes.
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        self.socket = opened[0]
        self.socket.settimeout(BOUND_S)

    def send(self, mac: str, text: str) -> None:
        head = bytes.fromhex(mac.replace(":", "")) + b"\x0a\0\0\0\0\x7f"
        self.socket.send(head + ETHER_TYPE.to_bytes(2, "big") + text.encode().ljust(46))

    def collect(self, last: str) -> list[str]:
        """The texts that arrive up to and with `last`."""
        texts: list[str] = []
        while not texts or texts[-1] != last:
            texts.append(self.socket.recv(2048)[14:].decode().strip())
        return texts

    def pending(self) -> list[str]:
        """The texts that have arrived and nobody took."""
        texts = []
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                texts.append(self.socket.recv(2048)[14:].decode().strip())
        self.socket.settimeout(BOUND_S)
        return texts

    def close(self) -> None:
        self.socket.close()


def _setns(descriptor: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def controller_process(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m controller`, its socket and event log in `folder`."""
    words = [sys.executable, "-m", "controller", "--openflow-port", str(port)]
    words += ["--northbound", str(folder / "nb.sock"), "--events", str(folder / "events.jsonl")]
    process = subprocess.Popen(words)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(BOUND_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def send_while(triangle: Triangle, mac: str, work: Callable[[], None]) -> int:
    """Send numbered frames from host 0 until `work` is done; how many."""
    end, sent = threading.Event(), [0]

    def stream() -> None:
        with triangle.host(0) as host:
            # The switch's receive buffer holds about 270 frames: it may halt for half a second,
            # as it does when somebody else adds a bridge.
            while not end.wait(0.002):
                host.send(mac, str(sent[0]))
                sent[0] += 1

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        work()
    finally:
        end.set()
        thread.join()
    return sent[0]


def steer(client: ControllerClient, mac: str, *targets: int) -> None:
    """From host 0 to the hosts `targets`."""
    names = tuple(f"server-{node}" for node in targets)
    client.install("r0", [Segment(mac, "server-0", names)])


class Relay:
    """A TCP relay before the controller, whose connections can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def cut(self) -> None:
        """End all connections; the switches come back by themselves."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
