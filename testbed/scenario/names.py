"""The names of what a run has: hosts, processes, replica groups and their members.

They are made and read here alone. A group is named by its request, the place of its function in
the chain and, in a chain of several shards, its shard: r3-h1, r3-h1-s2. Its members count from 0:
r3-h1-s2-m0.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from testbed.scenario.types import Request

_NUMBER = r"(0|[1-9]\d*)"
_GROUP = re.compile(rf"r{_NUMBER}-h{_NUMBER}(?:-s{_NUMBER})?", re.ASCII)
_MEMBER = re.compile(rf"(.+)-m{_NUMBER}", re.ASCII)
_USER = re.compile(rf"user-{_NUMBER}", re.ASCII)
_APPLICATION = re.compile(rf"application-{_NUMBER}-(serve|use)", re.ASCII)
_SERVER = re.compile(rf"server-{_NUMBER}", re.ASCII)


class GroupKey(NamedTuple):
    """Which replica group of a chain: the function's place in the chain, and the shard."""

    hop: int
    shard: int = 0


class MemberKey(NamedTuple):
    """Which instance of a run: the request, the group of its chain, and the number in the group."""

    request: int
    group: GroupKey
    number: int


def server_name(node: int) -> str:
    """The server host at a node, its agent, and what the FDU calls it."""
    return f"server-{node}"


def parse_server(name: str) -> int | None:
    """The node of a server; None for what is not the name of one."""
    found = _SERVER.fullmatch(name)
    return None if found is None else int(found[1])


def user_name(node: int) -> str:
    """The user host at a node."""
    return f"user-{node}"


def edge_name(node: int) -> str:
    """The edge at a user host."""
    return f"edge-{node}"


def probing_process(host: str) -> str:
    """What sends and hears probes at a host: its edge, or its server's agent."""
    found = _USER.fullmatch(host)
    return host if found is None else edge_name(int(found[1]))


def sender_name(node: int) -> str:
    """The sender at a user host."""
    return f"sender-{node}"


def receiver_name(node: int) -> str:
    """The receiver at a user host."""
    return f"receiver-{node}"


def fdu_name(number: int) -> str:
    """A member of the FDU."""
    return f"fdu-{number}"


def application_name(number: int, role: str) -> str:
    """An end of application `number` of the plan; `role` is "serve" or "use"."""
    return f"application-{number}-{role}"


def parse_application(name: str) -> tuple[int, str] | None:
    """The number and the role of an end of an application; None for what is none."""
    found = _APPLICATION.fullmatch(name)
    return None if found is None else (int(found[1]), found[2])


def chain_name(request: int) -> str:
    """The chain of a request, for the controller."""
    return f"r{request}"


def group_name(request: Request, key: GroupKey) -> str:
    """A replica group of a request's chain."""
    return group_names(request.id, key.hop, request.shards)[key.shard]


def group_names(request: int, hop: int, shards: int) -> list[str]:
    """The replica groups of function number `hop` of a request, by shard."""
    name = f"{chain_name(request)}-h{hop}"
    return [name] if shards == 1 else [f"{name}-s{shard}" for shard in range(shards)]


def parse_group(name: str) -> tuple[int, GroupKey] | None:
    """The request and the key of a group; None for what is not the name of one."""
    found = _GROUP.fullmatch(name)
    if found is None:
        return None
    request, hop, shard = (int(part or 0) for part in found.groups())
    return request, GroupKey(hop, shard)


def member_name(group: str, number: int) -> str:
    """A member of a replica group."""
    return f"{group}-m{number}"


def instance_name(request: Request, key: GroupKey, number: int) -> str:
    """A member of a replica group of a request's chain."""
    return member_name(group_name(request, key), number)


def parse_member(name: str) -> MemberKey | None:
    """Which instance it is; None for what is not the name of one."""
    found = _MEMBER.fullmatch(name)
    group = None if found is None else parse_group(found[1])
    return None if found is None or group is None else MemberKey(*group, int(found[2]))
