"""The OpenFlow 1.3 adapter: the one module that knows os-ken.

os-ken's native threads need care. When a switch goes away, `Datapath.serve` waits for its send
loop, which waits for work until the next echo request: `_Datapath` tells at once. The stock
handler binds its port in a thread whose failure nobody sees, on all addresses: `listen` takes a
socket that listens already.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Sequence
from typing import Any

from os_ken import cfg
from os_ken.base.app_manager import AppManager, OSKenApp
from os_ken.controller import controller, ofp_event
from os_ken.controller.handler import (
    CONFIG_DISPATCHER,
    DEAD_DISPATCHER,
    MAIN_DISPATCHER,
    set_ev_cls,
)
from os_ken.controller.ofp_handler import OFPHandler
from os_ken.lib import hub
from os_ken.ofproto import ofproto_v1_3

from controller.fabric import Fabric
from controller.update import AddGroup, Barrier, DeleteFlow, DeleteGroup, Message, SetFlow

ECHO_INTERVAL_S = 5.0
ECHOS_UNANSWERED = 3
COOKIE = 0xDEF7BED000000000
"""Marks the flows that are ours."""
COOKIE_MASK = 0xFFFFFFFF00000000


class _Datapath(controller.Datapath):  # type: ignore[misc]
    """A switch's connection that is known to be dead as soon as the switch has gone away."""

    def _recv_loop(self) -> None:
        try:
            super()._recv_loop()
        finally:
            self.close()


class _Handler(OFPHandler):  # type: ignore[misc]
    """Negotiates versions; accepts no connections itself."""

    def start(self) -> None:
        OSKenApp.start(self)


class SwitchConnection:
    """Sends rules to one connected switch."""

    def __init__(self, datapath: Any) -> None:
        self._datapath = datapath
        self._ofp = datapath.ofproto
        self._parser = datapath.ofproto_parser
        self._bundles = itertools.count(1)

    def send(self, messages: Sequence[Message]) -> list[int]:
        """Send the messages, then a barrier; returns their numbers, the barrier's last."""
        built = [self._build(message) for message in messages]
        if not messages or not isinstance(messages[-1], Barrier):
            built.append(self._parser.OFPBarrierRequest(self._datapath))
        return self._transmit(built)

    def replace(self, messages: Sequence[Message]) -> list[int]:
        """Put `messages` in place of our flows and all groups, in one atomic bundle."""
        ofp, parser, datapath = self._ofp, self._parser, self._datapath
        flags = ofp.ONF_BF_ATOMIC | ofp.ONF_BF_ORDERED
        bundle = next(self._bundles)

        def control(kind: int) -> Any:
            return parser.ONFBundleCtrlMsg(datapath, bundle, kind, flags, [])

        inner = [self._wipe(), self._delete_group(ofp.OFPG_ALL), self._table_miss()]
        inner += [self._build(message) for message in messages]
        return self._transmit(
            [
                control(ofp.ONF_BCT_OPEN_REQUEST),
                *(parser.ONFBundleAddMsg(datapath, bundle, flags, each, []) for each in inner),
                control(ofp.ONF_BCT_COMMIT_REQUEST),
                parser.OFPBarrierRequest(datapath),
            ]
        )

    def _transmit(self, built: Sequence[Any]) -> list[int]:
        """One write for all: os-ken's queue between threads holds 16 buffers only."""
        xids, buffers = [], []
        for message in built:
            xids.append(self._datapath.set_xid(message))
            message.serialize()
            buffers.append(bytes(message.buf))
        self._datapath.send(b"".join(buffers))
        return xids

    def _build(self, message: Message) -> Any:
        match message:
            case AddGroup(group_id, outputs):
                buckets = [
                    self._parser.OFPBucket(actions=[self._parser.OFPActionOutput(port)])
                    for port in outputs
                ]
                return self._parser.OFPGroupMod(
                    self._datapath, self._ofp.OFPGC_ADD, self._ofp.OFPGT_ALL, group_id, buckets
                )
            case SetFlow():
                return self._set_flow(message)
            case DeleteFlow(match):
                return self._flow_mod(
                    command=self._ofp.OFPFC_DELETE_STRICT,
                    priority=match.priority,
                    match=self._match(match.in_port, match.eth_dst),
                    cookie_mask=COOKIE_MASK,
                )
            case DeleteGroup(group_id):
                return self._delete_group(group_id)
            case Barrier():
                return self._parser.OFPBarrierRequest(self._datapath)

    def _set_flow(self, flow: SetFlow) -> Any:
        if flow.group_id is None:
            action = self._parser.OFPActionOutput(flow.port)
        else:
            action = self._parser.OFPActionGroup(flow.group_id)
        apply = self._parser.OFPInstructionActions(self._ofp.OFPIT_APPLY_ACTIONS, [action])
        return self._flow_mod(
            command=self._ofp.OFPFC_ADD,
            priority=flow.match.priority,
            match=self._match(flow.match.in_port, flow.match.eth_dst),
            instructions=[apply],
        )

    def _match(self, in_port: int | None, eth_dst: str) -> Any:
        if in_port is None:
            return self._parser.OFPMatch(eth_dst=eth_dst)
        return self._parser.OFPMatch(in_port=in_port, eth_dst=eth_dst)

    def _table_miss(self) -> Any:
        """A flow without instructions drops."""
        return self._flow_mod(command=self._ofp.OFPFC_ADD, priority=0)

    def _wipe(self) -> Any:
        return self._flow_mod(command=self._ofp.OFPFC_DELETE, cookie_mask=COOKIE_MASK)

    def _flow_mod(self, **fields: Any) -> Any:
        return self._parser.OFPFlowMod(
            self._datapath,
            cookie=COOKIE,
            out_port=self._ofp.OFPP_ANY,
            out_group=self._ofp.OFPG_ANY,
            **fields,
        )

    def _delete_group(self, group_id: int) -> Any:
        return self._parser.OFPGroupMod(
            self._datapath, self._ofp.OFPGC_DELETE, self._ofp.OFPGT_ALL, group_id, []
        )


class SteeringApp(OSKenApp):  # type: ignore[misc]
    """Tells the fabric what the switches say."""

    OFP_VERSIONS = (ofproto_v1_3.OFP_VERSION,)

    def __init__(self, fabric: Fabric) -> None:
        super().__init__()
        self._fabric = fabric
        self._connections: dict[Any, SwitchConnection] = {}

    @set_ev_cls(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])  # type: ignore[untyped-decorator]
    def state_changed(self, event: Any) -> None:
        """A switch finished its handshake or went away."""
        datapath = event.datapath
        if event.state == MAIN_DISPATCHER:
            self._connections[datapath] = SwitchConnection(datapath)
            self._fabric.attach(datapath.id, self._connections[datapath])
        elif (connection := self._connections.pop(datapath, None)) is not None:
            self._fabric.detach(datapath.id, connection)

    @set_ev_cls(ofp_event.EventOFPBarrierReply, MAIN_DISPATCHER)  # type: ignore[untyped-decorator]
    def barrier_replied(self, event: Any) -> None:
        """All that was sent before a barrier is done."""
        datapath = event.msg.datapath
        if (connection := self._connections.get(datapath)) is not None:
            self._fabric.confirmed(datapath.id, connection, event.msg.xid)

    @set_ev_cls(ofp_event.EventOFPErrorMsg, [CONFIG_DISPATCHER, MAIN_DISPATCHER])  # type: ignore[untyped-decorator]
    def refused(self, event: Any) -> None:
        """A switch refused a message."""
        message, datapath = event.msg, event.msg.datapath
        if (connection := self._connections.get(datapath)) is not None:
            self._fabric.failed(datapath.id, connection, message.xid, _error_text(message))


def _error_text(message: Any) -> str:
    ofp = message.datapath.ofproto
    if message.type == ofp.OFPET_EXPERIMENTER:
        return f"OpenFlow error, experimenter {message.experimenter:#x} type {message.exp_type}"
    kind = ofp.ofp_error_type_to_str(message.type)
    return f"OpenFlow error {kind} {ofp.ofp_error_code_to_str(message.type, message.code)}"


def _serve(sock: Any, address: Any) -> None:
    with contextlib.closing(_Datapath(sock, address)) as datapath:
        datapath.serve()


def _accept(listener: socket.socket) -> None:
    while True:
        sock, address = listener.accept()
        hub.spawn(_serve, sock, address)


def listen(fabric: Fabric, listener: socket.socket) -> None:
    """Serve the switches that connect to `listener` in threads of their own, without end."""
    cfg.CONF(args=[], project="deftbed", default_config_files=[], default_config_dirs=[])
    cfg.CONF.set_override("echo_request_interval", ECHO_INTERVAL_S)
    cfg.CONF.set_override("maximum_unreplied_echo_requests", ECHOS_UNANSWERED)
    manager = AppManager.get_instance()
    apps = [manager.instantiate(_Handler), manager.instantiate(SteeringApp, fabric)]
    for app in apps:
        app.start()
    hub.spawn(_accept, listener)
