"""What the twin has no model of is told or refused, key by key, and no key is forgotten."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario, parse_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.modelled import (
    MODELLED,
    NO_EFFECT,
    STANDING,
    Unmodelled,
    left_out,
    require_modelled,
)
from testbed.scenario.plan import make_plan
from testbed.twin.pack import pack_plans
from tests.support.places import SCENARIOS

SMOKE = SCENARIOS / "smoke.yaml"
SCALING = {"high": 0.9, "low": 0.1}
BURST = {"to_bad": 0.1, "to_good": 0.5}
EXAMPLES: dict[str, dict[str, Any]] = {
    "links.backend": {"links.backend": "none"},
    "links.queue_bytes": {"links.queue_bytes": 3_000},
    "links.jitter_s": {"links.jitter_s": 0.002},
    "links.jitter_reorders": {"links.jitter_reorders": True},
    "links.loss": {"links.loss": 0.3},
    "links.burst_loss.**": {"links.burst_loss": BURST},
    "links.reorder": {"links.reorder": 0.1},
    "links.duplicate": {"links.duplicate": 0.1},
    "links.trace": {"links.trace": "some.trace"},
    "links.by_link.*.queue_bytes": {"links.by_link": {"queue_bytes": 3_000}},
    "links.by_link.*.jitter_s": {"links.by_link": {"jitter_s": 0.002}},
    "links.by_link.*.jitter_reorders": {"links.by_link": {"jitter_reorders": True}},
    "links.by_link.*.loss": {"links.by_link": {"loss": 0.3}},
    "links.by_link.*.burst_loss.**": {"links.by_link": {"burst_loss": BURST}},
    "links.by_link.*.reorder": {"links.by_link": {"reorder": 0.1}},
    "links.by_link.*.duplicate": {"links.by_link": {"duplicate": 0.1}},
    "links.by_link.*.trace": {"links.by_link": {"trace": "some.trace"}},
    "links.changes.**": {"links.changes": [{"at_s": 2, "up": False}]},
    "servers.capacity_model": {"servers.capacity_model": "quota"},
    "chains.*.l3_bytes": {"chains.l3_bytes": "imix"},
    "chains.*.shards": {"chains.shards": 2},
    "traffic.process": {"traffic.process": "cbr"},
    "traffic.process.**": {"traffic.process": {"kind": "on-off", "on_s": 1.0, "off_s": 1.0}},
    "traffic.applications.**": {
        "traffic.applications": [{"kind": "http", "request": 0, "at_s": 2, "duration_s": 1}]
    },
    "replication.backups": {"replication.backups": 2},
    "replication.batch_packets": {"replication.mode": "deft", "replication.batch_packets": 8},
    "replication.batch_s": {"replication.mode": "deft", "replication.batch_s": 0.01},
    "replication.buffer_packets": {"replication.buffer_packets": 16},
    "replication.lease_s": {"replication.lease_s": 0.5},
    "replication.move_hold_s": {"scaling": SCALING, "replication.move_hold_s": 0.5},
    "replication.move_overflow": {"scaling": SCALING, "replication.move_overflow": "declare"},
    "moves.**": {"moves": [{"at_s": 2, "request": 0, "function": 0, "to": "west"}]},
    "scales.**": {"scales": [{"at_s": 2, "request": 0, "function": 0, "instances": 1}]},
    "scaling.**": {"scaling": SCALING},
    "overload.period_s": {"overload": {"period_s": 2.0}},
}
"""For each key that the twin has no model of, what a scenario has that asks for it."""


def smoke_with(changes: dict[str, Any]) -> Scenario:
    """The smoke scenario with some keys changed, as in a file."""
    data = yaml.safe_load(SMOKE.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, name = key.split(".")
        if key == "links.by_link":
            value = [{"between": ["west", "north"], **value}]
        here = data
        for section in sections:
            here = here.setdefault(section, {})
            here = here[0] if isinstance(here, list) else here
        here[name] = value
    return parse_scenario(yaml.safe_dump(data))


def schema_keys(annotation: Any, key: str = "") -> Iterator[str]:
    """Every key of the schema that holds a value, with `*` for items and names."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from schema_keys(arguments[0], key)
    elif get_origin(annotation) in (Union, types.UnionType):
        for each in arguments:
            if each is not types.NoneType:
                yield from schema_keys(each, key)
    elif get_origin(annotation) in (list, dict) and _has_model(arguments[-1]):
        yield from schema_keys(arguments[-1], f"{key}.*")
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from schema_keys(field.annotation, f"{key}.{name}" if key else name)
    else:
        yield key


def _has_model(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_has_model(each) for each in get_args(annotation))


def standing_of(key: str) -> str | None:
    """The pattern under which a key stands."""
    parts = key.split(".")
    above = [".".join(parts[:length]) + ".**" for length in range(len(parts), 0, -1)]
    return next((pattern for pattern in (key, *above) if pattern in STANDING), None)


def test_every_key_of_the_schema_stands_in_the_list_and_nothing_else_does() -> None:
    keys = list(dict.fromkeys(schema_keys(Scenario)))
    assert len(keys) > 120
    assert [key for key in keys if standing_of(key) is None] == []
    used = {standing_of(key) for key in keys}
    assert [pattern for pattern in STANDING if pattern not in used] == []
    for standing in STANDING.values():
        assert standing in (MODELLED, NO_EFFECT) or isinstance(standing, Unmodelled)


def test_a_new_key_without_a_standing_would_be_seen() -> None:
    class Further(Scenario):
        """A scenario with a key that nobody has classed."""

        gravity: float = 9.81

    assert [key for key in schema_keys(Further) if standing_of(key) is None] == ["gravity"]


def test_every_key_without_a_model_has_an_example_and_a_reason() -> None:
    unmodelled = {key: each for key, each in STANDING.items() if isinstance(each, Unmodelled)}
    assert set(unmodelled) == set(EXAMPLES)
    assert all(each.reason for each in unmodelled.values())


@pytest.mark.parametrize("pattern", EXAMPLES)
def test_what_a_scenario_asks_for_is_told_by_its_key(pattern: str) -> None:
    found = left_out(smoke_with(EXAMPLES[pattern]))
    key = pattern.removesuffix(".**").replace("*", "0")
    (told,) = [each for each in found if each.key == key]
    standing = STANDING[pattern]
    assert isinstance(standing, Unmodelled)
    assert (told.reason, told.refused) == (standing.reason, standing.refused)
    assert str(told).startswith(f"{key} = {told.value}: ")


@pytest.mark.parametrize("pattern", ["traffic.process.**", "traffic.applications.**"])
def test_what_is_refused_is_refused_by_the_twin_too(pattern: str) -> None:
    scenario = smoke_with(EXAMPLES[pattern])
    with pytest.raises(InputError) as caught:
        require_modelled(scenario)
    assert caught.value.field == pattern.removesuffix(".**")
    plain = make_plan(load_scenario(SMOKE), 1)
    with pytest.raises(InputError, match="no model of"):
        pack_plans([plain, make_plan(scenario, 1)])


def test_a_scenario_that_asks_for_nothing_is_left_whole() -> None:
    assert left_out(load_scenario(SMOKE)) == ()
    quiet = {"links.loss": 0.0, "links.jitter_s": 0.0, "replication.mode": "none",
             "replication.backups": 3}  # fmt: skip
    assert left_out(smoke_with(quiet)) == ()


def test_check_says_what_the_twin_leaves_out_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from testbed.cli.main import main

    path = tmp_path / "lossy.yaml"
    scenario = smoke_with({**EXAMPLES["links.loss"], **EXAMPLES["traffic.process.**"]})
    path.write_text(yaml.safe_dump(scenario.model_dump(exclude_none=True)), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["check", str(path), "--json"])
    assert ended.value.code == 0
    twin = json.loads(capsys.readouterr().out)["twin"]
    assert [line.split(" = ")[0] for line in twin["left_out"]] == ["links.loss"]
    assert [line.split(" = ")[0] for line in twin["refused"]] == ["traffic.process"]
    with pytest.raises(SystemExit):
        main(["check", str(path)])
    said = capsys.readouterr().err
    assert "the twin leaves out links.loss = 0.3: " in said
    assert "the twin refuses traffic.process = on-off: " in said
