"""One order to many processes: all have obeyed at the end, or it is said who did not."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.orchestration.messages.control_client import ControlClient, NoAnswer, OrderRefused
from testbed.records.threads import Worker
from testbed.vnf.process.control_socket import ControlSocket

MANY = 40
"""More than the queue of one socket holds."""


class Many:
    """Control sockets that note the origin that they are told; some refuse, some are silent."""

    def __init__(self, folder: Path, refusing: int = -1, silent: int = -1) -> None:
        self.told: dict[int, int] = {}
        self.targets = [str(folder / f"sender-{number}.sock") for number in range(MANY)]
        self._refusing = refusing
        self._sockets = [
            ControlSocket(path, {"begin": self._order(number)})
            for number, path in enumerate(self.targets)
        ]
        self._served = [each for number, each in enumerate(self._sockets) if number != silent]
        self._over = threading.Event()

    def _order(self, number: int) -> Any:
        def begin(order: dict[str, Any]) -> dict[str, Any]:
            if number == self._refusing:
                raise ValueError("not now")
            self.told[number] = order["origin_ns"]
            return {}

        return begin

    def serve(self) -> None:
        while not self._over.is_set():
            for ready in select.select(self._served, (), (), 0.01)[0]:
                ready.serve()

    @contextmanager
    def serving(self) -> Iterator[None]:
        worker = Worker("served", self.serve).start()
        try:
            yield
        finally:
            self._over.set()
            worker.join()
            for each in self._sockets:
                each.close()


def test_all_are_told_however_many_there_are(tmp_path: Path) -> None:
    many = Many(tmp_path)
    with many.serving(), ControlClient(tmp_path / "client.sock") as client:
        client.call_all(many.targets, "begin", 10.0, origin_ns=7)
        assert many.told == dict.fromkeys(range(MANY), 7)
        client.call_all([], "begin", 10.0)
        client.call(many.targets[3], "ping")


def test_one_that_refuses_is_named(tmp_path: Path) -> None:
    many = Many(tmp_path, refusing=23)
    with (
        many.serving(),
        ControlClient(tmp_path / "client.sock") as client,
        pytest.raises(OrderRefused, match=r"sender-23: begin: .*not now"),
    ):
        client.call_all(many.targets, "begin", 10.0, origin_ns=7)


def test_one_that_does_not_answer_is_named(tmp_path: Path) -> None:
    many = Many(tmp_path, silent=11)
    with (
        many.serving(),
        ControlClient(tmp_path / "client.sock") as client,
        pytest.raises(NoAnswer, match="sender-11: no answer to begin"),
    ):
        client.call_all(many.targets, "begin", 2.0, origin_ns=7)
