"""The failure detector: suspects in time, once, and nobody who is heard of."""

from __future__ import annotations

import pytest

from testbed.vnf.replication.failure import Detector


def test_suspects_after_the_timeout_and_not_before() -> None:
    detector = Detector(100)
    detector.watch("a", 1000)
    assert detector.check(1100) == []
    assert detector.check(1101) == ["a"]


def test_reports_a_suspect_once_though_it_is_heard_of_again() -> None:
    detector = Detector(100)
    detector.watch("a", 0)
    assert detector.check(500) == ["a"]
    detector.heartbeat("a", 500)
    assert detector.check(1000) == []


def test_a_suspect_can_be_watched_anew() -> None:
    detector = Detector(100)
    detector.watch("a", 0)
    detector.check(500)
    detector.watch("a", 600)
    assert detector.check(700) == []
    assert detector.check(701) == ["a"]


def test_counts_from_when_a_heartbeat_was_sent_and_ignores_older_ones() -> None:
    detector = Detector(100)
    detector.watch("a", 0)
    detector.heartbeat("a", 90)
    detector.heartbeat("a", 20)
    assert detector.check(190) == []
    assert detector.check(191) == ["a"]


def test_judges_each_member_by_itself() -> None:
    detector = Detector(100)
    for name in ("a", "b", "c"):
        detector.watch(name, 0)
    detector.heartbeat("b", 150)
    assert detector.check(200) == ["a", "c"]
    assert detector.check(251) == ["b"]


def test_a_forgotten_member_is_not_suspected_nor_revived_by_a_heartbeat() -> None:
    detector = Detector(100)
    detector.watch("a", 0)
    detector.forget("a")
    detector.forget("never watched")
    detector.heartbeat("a", 10)
    assert detector.check(1000) == []


def test_refuses_a_timeout_that_is_no_time() -> None:
    with pytest.raises(ValueError, match="timeout_ns = 0"):
        Detector(0)
