"""The judge of fault campaigns: it passes what is as promised, and finds everything that is not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from testbed.lab.faults.accounting import account, trace
from testbed.lab.faults.judge import judge
from testbed.lab.faults.record import EpisodeRecord
from tests.support.faults_support import (
    FAULT_MS,
    LATENCY_NS,
    MS,
    PACKETS,
    at,
    dump,
    failover,
    injected,
    packets,
    record,
    with_events,
)


def found(episode: EpisodeRecord) -> set[str]:
    """The kinds of violations of an episode."""
    return {text.partition(":")[0] for row in judge(episode) for text in row["violations"]}


def test_an_episode_as_promised_has_no_violation() -> None:
    (row,) = judge(record())
    assert row["violations"] == []
    assert (row["lost"], row["declared"], row["lost_undeclared"]) == (0, 0, 0)


def test_an_episode_in_which_nothing_was_injected_has_no_rows() -> None:
    assert judge(record(events=[])) == []


def test_timings_are_those_of_the_events_and_of_the_packets() -> None:
    late = {(0, 50): 35 * MS, (0, 51): 25 * MS, (0, 52): 15 * MS, (0, 53): 5 * MS}
    (row,) = judge(record(frame=packets(late=late)))
    assert row["violations"] == []
    assert (row["detection_ms"], row["promotion_ms"], row["replay_ms"]) == (10, 12, 13)
    assert row["back_to_protected_ms"] == 90
    # Packet 49 came 4 ms after 491, packet 50 not before 540: 45 ms, of which 10 are usual.
    assert row["gap_ms"] == 35
    assert row["held_ms"] == 35


def test_what_happens_after_all_is_well_is_no_consequence() -> None:
    late = {"t_ns": at(FAULT_MS + 300), "event": "reconfigured", "group": "r0-h1", "cause": "admit"}
    event = injected("kill-primary", groups=["r0-h0", "r0-h1"])
    (row,) = judge(record([event, *failover(), late]))
    assert row["back_to_protected_ms"] == 90


def test_a_packet_that_nobody_declared_lost_is_found() -> None:
    (row,) = judge(record(frame=packets(lost=[(0, 52)])))
    assert row["lost_undeclared"] == 1
    assert any(text.startswith("lost-undeclared") for text in row["violations"])


def test_a_packet_that_was_declared_lost_at_the_first_hop_is_not_held_against_it() -> None:
    dumps = [
        *(dump(0, member, out=PACKETS, losses=[(0, 52)]) for member in (1, 2)),
        *(dump(1, member) for member in (0, 1)),
    ]
    for each in dumps[:2]:
        each["marks"][0][4] = PACKETS - 1
    for each in dumps[2:]:
        each["marks"][0][3:] = [PACKETS - 1, PACKETS - 1]
        each["state"][0][6] -= 1
        each["state"][-1][5] -= 1
    (row,) = judge(record(frame=packets(lost=[(0, 52)]), dumps=dumps))
    assert row["violations"] == []
    assert (row["lost"], row["declared"], row["lost_undeclared"]) == (1, 1, 0)


def test_losses_at_later_hops_are_named_by_the_outputs_of_the_hop_before() -> None:
    followed = trace(10, [frozenset({2}), frozenset({2, 5})])
    # Input 2 of the second hop is packet 3, since packet 2 never got there; input 5 is packet 6.
    assert followed.declared == {2: 0, 3: 1, 6: 1}
    assert followed.entering == (10, 9, 7)
    assert trace(3, [frozenset({7})]).beyond == ((0, 7),)


def test_the_flows_of_a_chain_are_numbered_as_the_stamper_met_them() -> None:
    frame = packets(lost=[(1, 52)])
    first = frame["flow"] == 0
    # Flow 1 is now the first to send, so the stamper calls it 0.
    frame.loc[first, "sent_ns"] = frame.loc[first, "sent_ns"] + 3 * MS
    losses = [dump(0, 1, losses=[(0, 52)]), dump(0, 2, losses=[(0, 52)])]
    counted = account(record(frame=frame, dumps=[*losses, dump(1, 0), dump(1, 1)]))
    lost = counted.packets[counted.packets["fate"] == "declared"]
    assert lost[["flow", "seq"]].to_numpy().tolist() == [[1, 52]]


def test_a_packet_that_was_declared_lost_and_delivered_is_found() -> None:
    dumps = [dump(0, 1, losses=[(0, 52)]), dump(0, 2, losses=[(0, 52)]), dump(1, 0), dump(1, 1)]
    assert "declared-and-delivered" in found(record(dumps=dumps))


def test_losses_that_a_member_knew_before_it_was_killed_count() -> None:
    lost = [(0, 52)]
    event = {
        "t_ns": at(1500),
        "event": "losses",
        "fault": 1,
        "group": "r0-h0",
        "losses": dump(0, 1, losses=lost)["losses"],
    }
    (row,) = judge(with_events(record(frame=packets(lost=lost)), event))
    assert (row["declared"], row["lost_undeclared"]) == (1, 0)


def test_a_loss_on_a_cut_link_is_told_apart_from_others() -> None:
    cut = [
        {"t_ns": at(510), "event": "cut-begin", "what": "link 0"},
        {"t_ns": at(540), "event": "cut-end", "what": "link 0"},
    ]
    during, after = (0, 52), (0, 80)
    (row,) = judge(with_events(record(frame=packets(lost=[during, after])), *cut))
    assert (row["on_failed_link"], row["lost_undeclared"]) == (1, 1)


def test_a_process_that_ended_by_itself_is_found() -> None:
    died = {"t_ns": at(2000), "event": "process-died", "process": "r0-h1-m0", "status": 1}
    (row,) = judge(with_events(record(), died))
    assert row["violations"] == [
        "process-died: r0-h1-m0 ended with status 1, and nobody had asked it to"
    ]


def test_the_controller_may_end_by_a_fault_of_its_own() -> None:
    died = {"t_ns": at(2000), "event": "process-died", "process": "controller", "status": -9}
    assert found(with_events(record(), died)) == {"process-died"}
    assert found(record([injected("controller-kill", target="controller"), died])) == set()


def test_a_duplicate_is_found() -> None:
    assert found(record(frame=packets(again=[(0, 60)]))) == {"duplicated"}


def test_a_packet_that_overtakes_is_found() -> None:
    assert found(record(frame=packets(late={(0, 60): 15 * MS}))) == {"reordered"}


@pytest.mark.parametrize("field", ["log_index", "marks", "state_digest"])
def test_members_that_differ_are_found(field: str) -> None:
    other: Any = {"log_index": 7, "state_digest": "ff"}.get(field, [])
    dumps = [dump(0, 1), dump(0, 2, **{field: other}), dump(1, 0), dump(1, 1)]
    assert "diverged" in found(record(dumps=dumps))


def test_a_member_without_a_dump_is_found() -> None:
    assert "no-dump" in found(record(dumps=[dump(0, 1), dump(0, 2), dump(1, 0)]))


def test_a_hop_that_handled_less_than_came_is_found() -> None:
    dumps = [dump(0, 1), dump(0, 2), *(dump(1, m, PACKETS - 1, PACKETS - 1) for m in (0, 1))]
    assert "chain-broken" in found(record(dumps=dumps))


def test_outputs_that_are_missing_without_a_loss_are_found() -> None:
    dumps = [dump(0, 1), dump(0, 2), *(dump(1, m, out=PACKETS - 1) for m in (0, 1))]
    assert "dropped-by-verdict" in found(record(dumps=dumps))


@pytest.mark.parametrize("place", [(0, 6), (-1, 5)])
def test_a_packet_that_was_counted_twice_is_found(place: tuple[int, int]) -> None:
    dumps = [dump(0, 1), dump(0, 2), dump(1, 0), dump(1, 1)]
    for each in dumps[2:]:
        each["state"][place[0]][place[1]] += 1
    assert found(record(dumps=dumps)) == {"not-exactly-once"}


@pytest.mark.parametrize(("more", "violations"), [(0, set()), (1, {"shared-overcounted"})])
def test_a_shared_view_that_counts_more_than_there_is_is_found(
    more: int, violations: set[str]
) -> None:
    dumps = [dump(0, 1), dump(0, 2), dump(1, 0), dump(1, 1)]
    total = dumps[2]["state"][-1][5]
    dumps[2]["shared"] = {"view": {"groups": ["r0-h1"], "packets": total + more}}
    dumps[3]["shared"] = {"view": {"groups": []}}
    assert found(record(dumps=dumps)) == violations


def zombie(frames: int, role: str | None) -> EpisodeRecord:
    event = {"t_ns": at(2000), "event": "zombie", "instance": "r0-h0-m0"}
    return with_events(record(), {**event, "frames": frames, "role": role})


def test_a_zombie_that_sends_or_keeps_its_role_is_found() -> None:
    assert found(zombie(0, "out")) == set()
    assert found(zombie(1, "out")) == {"zombie-released"}
    assert found(zombie(0, "primary")) == {"zombie-role"}
    assert found(zombie(0, None)) == {"zombie-role"}


def test_a_backup_that_emits_is_found() -> None:
    first = {"t_ns": at(100), "event": "snapshot", "instance": "r0-h1-m1", "role": "backup"}
    first |= {"epoch": 1, "emitted": 3}
    again = {**first, "t_ns": at(1200)}
    assert found(with_events(record(), first, again)) == set()
    assert found(with_events(record(), first, {**again, "emitted": 4})) == {"released-without-role"}
    # It may have been the primary for a while in between: then its epoch is another.
    assert found(with_events(record(), first, {**again, "emitted": 4, "epoch": 3})) == set()


def test_an_epoch_that_is_used_twice_is_found() -> None:
    second = {"t_ns": at(700), "event": "promoted", "group": "r0-h0", "instance": "r0-h0-m2"}
    assert found(with_events(record(), {**second, "epoch": 2})) == {"epoch-not-raised"}
    assert found(with_events(record(), {**second, "epoch": 3})) == set()


def test_a_release_by_one_that_was_replaced_is_found() -> None:
    late = {"t_ns": at(700), "event": "first-release", "group": "r0-h0", "instance": "r0-h0-m0"}
    assert found(with_events(record(), late)) == {"released-without-role"}


def detected(ms: float, instance: str) -> dict[str, Any]:
    event = {"t_ns": at(ms), "event": "failure-detected", "group": "r0-h1", "instance": instance}
    return {**event, "role": "primary", "order": "promote"}


def test_who_ran_on_a_core_that_stood_still_had_failed() -> None:
    def stalled(at_ms: float, ms: float) -> dict[str, Any]:
        return {"t_ns": at(at_ms), "event": "core-stalled", "core": 1, "stalled_ns": round(ms * MS)}

    detection = detected(600, "r0-h1-m0")
    for excuse in (stalled(590, 200), stalled(650, 340)):  # noted before the detection, and after
        assert found(with_events(record(), detection, excuse)) == set()
    for none in (stalled(590, 40), stalled(1500, 340), stalled(50, 340)):
        assert found(with_events(record(), detection, none)) == {"false-detection"}


def test_a_false_promotion_is_found() -> None:
    assert found(with_events(record(), detected(600, "r0-h1-m0"))) == {"false-detection"}
    assert found(with_events(record(), detected(100, "r0-h1-m0"))) == {"false-detection"}


def test_a_pause_is_no_failure_unless_the_host_made_it_too_long() -> None:
    begin = injected("pause-primary")
    events = [begin, *failover()]
    assert found(record(events)) == {"false-detection"}
    resumed = {"t_ns": at(FAULT_MS + 60), "event": "resumed", "paused_ns": 60 * MS}
    assert found(record([*events, resumed])) == {"false-detection"}
    assert found(record([*events, {**resumed, "paused_ns": 260 * MS}])) == set()


def test_what_does_not_heal_is_found() -> None:
    event = {"t_ns": at(2500), "event": "not-healed", "fault": 0}
    assert found(with_events(record(), event)) == {"not-healed"}


def test_a_move_that_fails_is_found_unless_it_was_refused() -> None:
    move = injected("move", victims=[])
    failed = {"t_ns": at(600), "event": "move-failed", "error": "member 2 did not catch up"}
    assert found(record([move, failed])) == {"move-failed"}
    assert found(record([move, {**failed, "error": "not drained: refused"}])) == set()


def test_what_an_edge_dropped_is_found() -> None:
    episode = record()
    episode.manifest["edges"]["edge-0"]["kernel_drops"] = 2
    assert found(episode) == {"testbed-dropped"}


def test_violations_and_losses_go_to_the_fault_that_they_follow() -> None:
    second = {**injected("kill-backup", 800, victims=["r0-h1-m1"]), "fault": 1}
    lost = [(0, 52), (0, 90)]
    episode = with_events(record(frame=packets(lost=lost)), second)
    first_row, second_row = judge(episode)
    assert (first_row["lost_undeclared"], second_row["lost_undeclared"]) == (1, 1)
    assert (first_row["fault"], second_row["fault"]) == ("kill-primary", "kill-backup")


def test_the_latency_of_the_hand_made_episode_is_as_it_says() -> None:
    frame = packets()
    assert ((frame["received_ns"] - frame["scheduled_ns"]) == LATENCY_NS).all()


def of_shard(whole: dict[str, Any], shard: int) -> dict[str, Any]:
    """What a member of a shard's group has that got one flow, of the same number."""
    group = f"{whole['group']}-s{shard}"
    *flows, totals = whole["state"]
    (mine,) = (row for row in flows if row[0] & 0xFF == shard)
    losses = [loss for loss in whole["losses"] if loss[1] == shard]
    return {
        **whole,
        "name": f"{group}-m{whole['member']}",
        "group": group,
        "marks": [mark for mark in whole["marks"] if mark[1] == shard],
        "losses": losses,
        "counters": {"declared_lost": len(losses)},
        "state": [mine, [*totals[:5], mine[6], *totals[6:]]],
    }


def sharded(*dumps: dict[str, Any], **fields: Any) -> EpisodeRecord:
    """The episode of `record` with its chain in two shards, one for each flow."""
    base = record(**fields)
    (request,) = base.manifest["requests"]
    *events, end = base.events
    groups = {f"{name}-s{shard}": of for name, of in end["groups"].items() for shard in range(2)}
    split = [of_shard(each, shard) for each in dumps for shard in range(2)]
    return dataclasses.replace(
        base,
        manifest={**base.manifest, "requests": [{**request, "shards": 2}]},
        dumps={each["name"]: each for each in split},
        events=(*events, {**end, "groups": groups}),
    )


def test_a_function_in_shards_is_judged_by_all_of_them() -> None:
    kept = sharded(dump(0, 1), dump(0, 2), dump(1, 0), dump(1, 1))
    assert found(kept) == set()
    # A loss that one shard declares is the flow's of that shard.
    losses = [(1, 7)]
    frame = packets(lost=losses)
    members = [dump(0, n, out=PACKETS, losses=losses) for n in (1, 2)]
    for each in members:
        each["marks"][1][4] -= 1
    after = [dump(1, n) for n in (0, 1)]
    for each in after:
        each["marks"][1][3:] = [PACKETS - 1] * 2
        each["state"][1][6] -= 1
    assert found(sharded(*members, *after, frame=frame)) == set()
    assert "lost-undeclared" in found(
        sharded(dump(0, 1), dump(0, 2), dump(1, 0), dump(1, 1), frame=frame)
    )


def test_a_shard_whose_dump_is_missing_or_whose_monitor_missed_packets_is_told() -> None:
    base = sharded(dump(0, 1), dump(0, 2), dump(1, 0), dump(1, 1))
    dumps = dict(base.dumps)
    dumps["r0-h1-s1-m0"] = {**dumps["r0-h1-s1-m0"], "state": []}
    assert "not-exactly-once" in found(dataclasses.replace(base, dumps=dumps))
    del dumps["r0-h1-s1-m0"]
    assert "no-dump" in found(dataclasses.replace(base, dumps=dumps))


@pytest.mark.parametrize(
    ("rows", "changes", "violations"),
    [([], 3, {"not-linearizable"}), ([], 2, set()), ([[0x60 << 56, 0, 0, 0, 0, 9]], 3, set())],
)
def test_groups_that_know_other_linearizable_records_are_found(
    rows: list[list[int]], changes: int, violations: set[str]
) -> None:
    dumps = [dump(0, 1), dump(0, 2), dump(1, 0), dump(1, 1)]
    shared = [[0x60 << 56, 0, 0, 0, 0, 9]]
    for each, known, count in ((dumps[0], shared, 3), (dumps[2], rows, changes)):
        each["scope"] = "everybody"
        each["counters"]["shared_changes"] = count
        each["state"] = known + each["state"]
    assert found(record(dumps=dumps)) == violations
