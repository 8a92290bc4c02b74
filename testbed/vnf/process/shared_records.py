"""An instance's part in linearizable records: asks go to the FDU, what it granted comes back.

See `testbed.vnf.replication.shared` for what is asked,
`testbed.orchestration.detection.shared_state` for what is granted. An ask is sent to all members of
the FDU, and again until it is answered; its token makes it one. What was granted comes as the order
"granted": the changes from a number on, and up to which ask of this process all is answered with
them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from testbed.vnf.dataplane.calls import on_answer, on_granted, take_ask
from testbed.vnf.functions.function import Process
from testbed.vnf.replication import member as layout
from testbed.vnf.replication.member import Member
from testbed.vnf.state.arrays import Words

AGAIN_NS = 100_000_000
"""Until an ask is sent again that was not answered."""


class SharedRecords:
    """Asks for a member; `send` gives a message to all members of the FDU, or loses it.

    `name` is the process's; `scope` names those who share the records. Without a scope nobody
    does, and nothing is asked for.
    """

    def __init__(
        self,
        name: str,
        group: str,
        scope: str | None,
        member: Member,
        process: Process,
        send: Callable[[bytes], None],
    ) -> None:
        self._sender = f"{name} {os.getpid()}"
        self._group = group
        self._scope = scope
        self._member = member
        self._process = process
        self._send = send
        self._asked: tuple[int, bytes] | None = None
        self._again_ns = 0

    @property
    def index(self) -> int | None:
        """How many changes the state contains; None if nobody shares its records."""
        return None if self._scope is None else int(self._member.words[layout.SHARED_INDEX])

    def ask(self, now_ns: int) -> None:
        """Send what is asked for; to be called when `loop.serve` says so."""
        m = self._member.words
        begin, size = int(m[layout.AT_ASK]), int(m[layout.ASK_FILL])
        words = m[begin : begin + size].tolist()
        number = int(take_ask(self._member))
        message = {
            "id": 0,
            "op": "ask",
            "token": f"{self._sender} {number}",
            "group": self._group,
            "scope": self._scope,
            "value_words": self._member.records.values.shape[1],
            "number": number,
            "since": self.index,
            "words": words,
        }
        self._asked = number, json.dumps(message).encode()
        self._again_ns = now_ns
        self.check(now_ns)

    def check(self, now_ns: int) -> None:
        """Send an ask again that was not answered for too long."""
        if self._asked is None or now_ns < self._again_ns:
            return
        number, message = self._asked
        m = self._member.words
        if m[layout.ROLE] != layout.PRIMARY or number <= m[layout.ASK_ANSWERED]:
            self._asked = None
            return
        self._again_ns = now_ns + AGAIN_NS
        self._send(message)

    def granted(self, order: dict[str, Any], now_ns: int) -> dict[str, Any]:
        """{"first", "changes": [[words], ...], "sender", "answered"}: see the module's text."""
        first = int(order["first"])
        for index, change in enumerate(order["changes"], first):
            if index == self.index_after:
                words: Words = np.array(change, np.int64)
                if not on_granted(self._member, now_ns, words, index):
                    break
        complete = self.index_after >= first + len(order["changes"])
        if complete and order["sender"] == self._sender and order["answered"] is not None:
            on_answer(self._member, self._process, now_ns, int(order["answered"]))
        return {"index": self.index}

    @property
    def index_after(self) -> int:
        """The number of the next change."""
        return int(self._member.words[layout.SHARED_INDEX]) + 1
