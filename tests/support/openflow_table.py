"""An OpenFlow 1.3 switch in memory: takes the bytes that os-ken sends, forwards frames.

What it cannot mean is refused, as a switch would: flows that overlap at one priority (the check
that OFPFF_CHECK_OVERLAP asks for, here of every flow), unknown groups, fields, ports and messages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from os_ken.ofproto import ofproto_common, ofproto_parser
from os_ken.ofproto import ofproto_v1_3 as ofp
from os_ken.ofproto import ofproto_v1_3_parser as parser
from os_ken.ofproto.ofproto_protocol import ProtocolDesc

from controller.rules import IN_PORT, Match

HEADER_BYTES = ofproto_common.OFP_HEADER_SIZE
ANY_MAC = ""
"""`Match.eth_dst` of a flow that does not look at the address."""


class OpenFlowError(Exception):
    """A switch refuses a message."""

    def __init__(self, kind: int, code: int) -> None:
        names = ofp.ofp_error_type_to_str(kind), ofp.ofp_error_code_to_str(kind, code)
        super().__init__(" ".join(names))


class Wire(ProtocolDesc):  # type: ignore[misc]
    """In place of os-ken's connection to a switch: numbers messages, hands bytes to `take`."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        super().__init__(ofp.OFP_VERSION)
        self._take = take
        self._xid = 0

    def set_xid(self, message: Any) -> int:
        """Number a message."""
        self._xid += 1
        message.set_xid(self._xid)
        return self._xid

    def send(self, data: bytes) -> bool:
        """Hand over what is sent."""
        self._take(data)
        return True


class Answer(NamedTuple):
    """To the message `xid`: why it was refused, or nothing if it was a barrier."""

    xid: int
    refusal: str


class Flow(NamedTuple):
    """An entry of the table; it sends to ports, or to a group alone."""

    cookie: int
    ports: tuple[int, ...]
    group_id: int | None


@dataclass(frozen=True)
class State:
    """Flows by match, groups of type ALL by number."""

    flows: dict[Match, Flow] = field(default_factory=dict)
    groups: dict[int, tuple[int, ...]] = field(default_factory=dict)


def split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages in a stream of bytes: (type, xid, bytes of the whole message)."""
    while data:
        version, kind, length, xid = ofproto_parser.header(data)
        assert version == ofp.OFP_VERSION and HEADER_BYTES <= length <= len(data), data
        yield kind, xid, data[:length]
        data = data[length:]


class SwitchTable:
    """One switch, known to the rules by `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State()
        self.most_groups = 1000
        self._bundles: dict[int, list[bytes]] = {}
        self._wire = Wire(lambda data: None)

    @property
    def flows(self) -> dict[Match, Flow]:
        """The flows by match."""
        return self.state.flows

    @property
    def groups(self) -> dict[int, tuple[int, ...]]:
        """The ports of each group."""
        return self.state.groups

    def restart(self) -> None:
        """Forget everything."""
        self.state, self._bundles = State(), {}

    def receive(self, data: bytes) -> list[Answer]:
        """Act on messages in their order; the answers, refusals and barrier replies, likewise."""
        answers = []
        for kind, xid, message in split(data):
            try:
                self._act(kind, xid, message)
            except OpenFlowError as error:
                answers.append(Answer(xid, str(error)))
            if kind == ofp.OFPT_BARRIER_REQUEST:
                answers.append(Answer(xid, ""))
        return answers

    def outputs(self, in_port: int, eth_dst: str) -> list[int]:
        """The ports that a frame leaves by."""
        hits = [
            match
            for match in self.flows
            if match.eth_dst in (ANY_MAC, eth_dst) and match.in_port in (None, in_port)
        ]
        if not hits:
            return []
        flow = self.flows[max(hits, key=lambda match: match.priority)]
        ports = flow.ports if flow.group_id is None else self.groups[flow.group_id]
        # A frame goes back where it came from by IN_PORT only.
        return [in_port if port == IN_PORT else port for port in ports if port != in_port]

    def _act(self, kind: int, xid: int, message: bytes) -> None:
        if kind == ofp.OFPT_FLOW_MOD:
            self._flow_mod(parser.OFPFlowMod.parser(self._wire, *_header(message), message))
        elif kind == ofp.OFPT_GROUP_MOD:
            self._group_mod(message)
        elif kind == ofp.OFPT_EXPERIMENTER:
            self._bundle(message)
        elif kind != ofp.OFPT_BARRIER_REQUEST:
            raise OpenFlowError(ofp.OFPET_BAD_REQUEST, ofp.OFPBRC_BAD_TYPE)

    def _flow_mod(self, asked: Any) -> None:
        match = self._match(asked)
        if asked.command == ofp.OFPFC_ADD:
            flow = _flow(asked)
            if flow.group_id is not None and flow.group_id not in self.groups:
                raise OpenFlowError(ofp.OFPET_BAD_ACTION, ofp.OFPBAC_BAD_OUT_GROUP)
            if any(_overlap(match, other) for other in self.flows):
                raise OpenFlowError(ofp.OFPET_FLOW_MOD_FAILED, ofp.OFPFMFC_OVERLAP)
            self.flows[match] = flow
        elif asked.command in (ofp.OFPFC_DELETE, ofp.OFPFC_DELETE_STRICT):
            if (asked.out_port, asked.out_group) != (ofp.OFPP_ANY, ofp.OFPG_ANY):
                raise OpenFlowError(ofp.OFPET_BAD_REQUEST, ofp.OFPBRC_EPERM)  # not modelled
            strict = asked.command == ofp.OFPFC_DELETE_STRICT
            for other, flow in list(self.flows.items()):
                ours = not (flow.cookie ^ asked.cookie) & asked.cookie_mask
                if ours and (other == match if strict else _covers(match, other)):
                    del self.flows[other]
        else:
            raise OpenFlowError(ofp.OFPET_FLOW_MOD_FAILED, ofp.OFPFMFC_BAD_COMMAND)

    def _match(self, asked: Any) -> Match:
        fields = dict(asked.match.items())
        if not fields.keys() <= {"in_port", "eth_dst"}:
            raise OpenFlowError(ofp.OFPET_BAD_MATCH, ofp.OFPBMC_BAD_FIELD)
        return Match(
            self.name, asked.priority, fields.get("in_port"), fields.get("eth_dst", ANY_MAC)
        )

    def _group_mod(self, message: bytes) -> None:
        """os-ken parses buckets, but not the message that they are in."""
        command, kind, group_id = struct.unpack_from(
            ofp.OFP_GROUP_MOD_PACK_STR, message, HEADER_BYTES
        )
        if command == ofp.OFPGC_ADD:
            if group_id in self.groups:
                raise OpenFlowError(ofp.OFPET_GROUP_MOD_FAILED, ofp.OFPGMFC_GROUP_EXISTS)
            if kind != ofp.OFPGT_ALL:
                raise OpenFlowError(ofp.OFPET_GROUP_MOD_FAILED, ofp.OFPGMFC_BAD_TYPE)
            if not 0 < group_id <= ofp.OFPG_MAX:
                raise OpenFlowError(ofp.OFPET_GROUP_MOD_FAILED, ofp.OFPGMFC_INVALID_GROUP)
            if len(self.groups) >= self.most_groups:
                raise OpenFlowError(ofp.OFPET_GROUP_MOD_FAILED, ofp.OFPGMFC_OUT_OF_GROUPS)
            self.groups[group_id] = tuple(_bucket_ports(message))
        elif command == ofp.OFPGC_DELETE:
            gone = {*self.groups} if group_id == ofp.OFPG_ALL else {group_id}
            for number in gone & self.groups.keys():
                del self.groups[number]
            # OpenFlow 1.3, 6.4: flows that use a deleted group go with it.
            for match, flow in list(self.flows.items()):
                if flow.group_id in gone:
                    del self.flows[match]
        else:
            raise OpenFlowError(ofp.OFPET_GROUP_MOD_FAILED, ofp.OFPGMFC_BAD_COMMAND)

    def _bundle(self, message: bytes) -> None:
        """A bundle is opened, gets messages, and is carried out as a whole or not at all."""
        experimenter, kind = struct.unpack_from(
            ofp.OFP_EXPERIMENTER_HEADER_PACK_STR, message, HEADER_BYTES
        )
        at = ofp.OFP_EXPERIMENTER_HEADER_SIZE
        if experimenter != ofproto_common.ONF_EXPERIMENTER_ID:
            raise OpenFlowError(ofp.OFPET_BAD_REQUEST, ofp.OFPBRC_BAD_EXPERIMENTER)
        if kind == ofp.ONF_ET_BUNDLE_ADD_MESSAGE:
            bundle, _ = struct.unpack_from(ofp.ONF_BUNDLE_ADD_MSG_PACK_STR, message, at)
            inner = message[at + struct.calcsize(ofp.ONF_BUNDLE_ADD_MSG_PACK_STR) :]
            assert ofproto_parser.header(inner)[3] == ofproto_parser.header(message)[3]
            self._bundles[bundle].append(inner)
            return
        bundle, step, _ = struct.unpack_from(ofp.ONF_BUNDLE_CTRL_PACK_STR, message, at)
        if step == ofp.ONF_BCT_OPEN_REQUEST:
            self._bundles[bundle] = []
        elif step == ofp.ONF_BCT_COMMIT_REQUEST:
            before = self.state
            self.state = State(dict(before.flows), dict(before.groups))
            try:
                for inner in self._bundles.pop(bundle):
                    for each in split(inner):
                        self._act(*each)
            except OpenFlowError:
                self.state = before
                raise
        else:
            raise OpenFlowError(ofp.OFPET_BAD_REQUEST, ofp.OFPBRC_BAD_TYPE)


def _header(message: bytes) -> tuple[int, int, int, int]:
    version, kind, length, xid = ofproto_parser.header(message)
    return version, kind, length, xid


def _flow(asked: Any) -> Flow:
    """What a flow does with frames: one output, or one group; nothing drops them."""
    actions = [action for instruction in asked.instructions for action in _applied(instruction)]
    outputs = tuple(each.port for each in actions if isinstance(each, parser.OFPActionOutput))
    groups = [each.group_id for each in actions if isinstance(each, parser.OFPActionGroup)]
    if len(outputs) + len(groups) != len(actions) or len(groups) > 1 or (groups and outputs):
        raise OpenFlowError(ofp.OFPET_BAD_ACTION, ofp.OFPBAC_BAD_TYPE)
    return Flow(asked.cookie, _ports(outputs), groups[0] if groups else None)


def _applied(instruction: Any) -> list[Any]:
    if instruction.type != ofp.OFPIT_APPLY_ACTIONS:
        raise OpenFlowError(ofp.OFPET_BAD_INSTRUCTION, ofp.OFPBIC_UNSUP_INST)
    actions: list[Any] = instruction.actions
    return actions


def _bucket_ports(message: bytes) -> Iterator[int]:
    """The port that each bucket of a group sends a copy to."""
    at = ofp.OFP_GROUP_MOD_SIZE
    while at < len(message):
        bucket = parser.OFPBucket.parser(message, at)
        (action,) = bucket.actions
        yield from _ports((action.port,))
        at += bucket.len


def _ports(ports: tuple[int, ...]) -> tuple[int, ...]:
    if not all(0 < port <= ofp.OFPP_MAX or port == IN_PORT for port in ports):
        raise OpenFlowError(ofp.OFPET_BAD_ACTION, ofp.OFPBAC_BAD_OUT_PORT)
    return ports


def _overlap(one: Match, other: Match) -> bool:
    """Whether a frame can match both, and nothing says which of them counts."""
    if one == other or one.priority != other.priority:
        return False
    ports = one.in_port is None or other.in_port in (None, one.in_port)
    return ports and (one.eth_dst == ANY_MAC or other.eth_dst in (ANY_MAC, one.eth_dst))


def _covers(wide: Match, narrow: Match) -> bool:
    """Whether all that `narrow` matches `wide` matches too; priorities do not count."""
    return (
        replace(
            wide,
            priority=narrow.priority,
            in_port=narrow.in_port if wide.in_port is None else wide.in_port,
            eth_dst=narrow.eth_dst if wide.eth_dst == ANY_MAC else wide.eth_dst,
        )
        == narrow
    )
