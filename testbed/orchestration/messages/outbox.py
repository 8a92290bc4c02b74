"""Messages to a slow reader: kept in order until its socket takes them."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from testbed.orchestration.messages.datagrams import sending_socket

KEPT = 10_000


class Outbox:
    """Sends JSON datagrams to the socket at `path`; the oldest of too many are given up."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = sending_socket()
        self._waiting: deque[bytes] = deque(maxlen=KEPT)

    def add(self, news: dict[str, Any]) -> None:
        """Send `news` after what waits."""
        self._waiting.append(json.dumps(news).encode())
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as it is taken."""
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._path)
            except BlockingIOError:
                return
            except (FileNotFoundError, ConnectionRefusedError):
                self._waiting.clear()  # nobody is there to be told
                return
            self._waiting.popleft()
