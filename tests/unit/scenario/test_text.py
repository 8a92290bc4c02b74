"""What a file's text means, and what is said of text that means nothing: no silent readings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.placement.config import read_config
from agents.provisioning.config import read_config as read_dqn_config
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario, parse_scenario
from testbed.scenario.yaml_text import MAX_FILE_BYTES, parse_mapping

TINY = """
format: 1
name: tiny
topology:
  nodes: [{name: a}, {name: b}]
  links: [{a: a, b: b, length_km: 100}]
servers: {default: {cpu_cores: 0.5}}
chains: [{name: one, functions: [fw], rate_pps: 50, l3_bytes: 200, delay_bound_s: 0.05}]
traffic: {duration_s: 3, initial_requests: 1}
policies: [deft]
seeds: [1]
"""
NO_WORDS = re.compile(r"tagged-union|literal\[|constrained|function-|Spec\b|\^\[|pydantic|Error\b")
"""What no person should read: names of classes and validators, regular expressions."""


def tiny(old: str, new: str) -> str:
    assert old in TINY
    return TINY.replace(old, new)


def error_of(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_scenario(text)
    assert not NO_WORDS.search(str(caught.value))
    return caught.value


def value(text: str) -> Any:
    return parse_mapping(f"key: {text}", "scenario")["key"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("-7", -7), ("+7", 7), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("100e6", 1e8),
        ("1e-7", 1e-7), ("-.inf", float("-inf")), ("true", True), ("FALSE", False), ("~", None),
        ("null", None), ("", None), ("'010'", "010"), ("[1, x]", [1, "x"]),
        # Of these YAML 1.1 makes numbers, dates and truth values.
        ("010", "010"), ("-010", "-010"), ("0b11", "0b11"), ("0x1f", "0x1f"), ("1_000", "1_000"),
        ("1_0.5", "1_0.5"), ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("2026-11-30", "2026-11-30"),
        ("2026-11-30 10:00:00", "2026-11-30 10:00:00"), ("yes", "yes"), ("No", "No"), ("on", "on"),
        ("OFF", "OFF"), ("y", "y"), ("=", "="), ("<<", "<<"), ("0o17", "0o17"),
    ],
)  # fmt: skip
def test_plain_text_is_a_number_only_if_every_reader_says_so(text: str, expected: Any) -> None:
    found = value(text)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize("seed", ["010", "0x10", "0b1", "1_0", "1:30", "2026-11-30", "'1'"])
def test_a_number_that_others_read_in_another_way_is_refused(seed: str) -> None:
    error = error_of(tiny("seeds: [1]", f"seeds: [{seed}]"))
    assert (error.field, error.value) == ("seeds.0", seed.strip("'"))
    assert "a whole number" in error.expected and "in decimal digits" in error.expected


def test_words_that_yaml_1_1_takes_for_truth_are_names_and_no_truth() -> None:
    text = TINY.replace("a: a, b: b", "a: no, b: on").replace(
        "{name: a}, {name: b}", "{name: no}, {name: on}"
    )
    nodes = parse_scenario(text).topology.nodes
    assert nodes is not None and [node.name for node in nodes] == ["no", "on"]
    error = error_of(tiny("servers: {", "servers: {admission: yes, "))
    assert (error.field, error.expected) == ("servers.admission", "true or false")


MERGED = """
servers:
  default: &usual {cpu_cores: 0.5, memory_bytes: 300000000}
  by_node: {b: {<<: *usual, cpu_cores: 0.25}}
"""


def test_merge_keys_and_aliases_work() -> None:
    scenario = parse_scenario(tiny("servers: {default: {cpu_cores: 0.5}}", MERGED))
    assert scenario.servers.by_node["b"].cpu_cores == 0.25
    assert scenario.servers.by_node["b"].memory_bytes == 300_000_000
    several = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: [*b, *a], z: 3}"
    assert parse_mapping(several, "f") == {
        "a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 2, "z": 3},
    }  # fmt: skip


def test_merge_keys_work_in_training_configs(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("size: {<<: {width: 32}, heads: 2}")
    assert (read_config(path).size.width, read_config(path).size.heads) == (32, 2)
    path.write_text("streams: {<<: {centres: [2, 2]}}")
    assert read_dqn_config(path).streams.centres == (2, 2)
    path.write_text("epochs: 010")
    with pytest.raises(InputError, match="epochs = '010': expected a whole number"):
        read_config(path)


DEEP = "[" * 5000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("? [1, 2]\n: 3", r"text as a key.*\(line 1\)"),
        ("a: 1\n? {b: 1}\n: 3", r"text as a key.*\(line 2\)"),
        ("1: 2", "= '1': expected text as a key, in quotes"),
        ("a: 1\n~: 2", r"text as a key.*\(line 2\)"),
        ("a: {b: 1, b: 2}", r"b = 'given twice'.*\(line 1\)"),
        ("a: [1", r"= 'line 1': expected YAML"),
        ("a: b: c", r"= 'line 1': expected YAML \(mapping values are not allowed here\)"),
        ("a: !!int x", "is no int"),
        ("a: !!bool x", "is no bool"),
        ("a: !!float x", "is no float"),
        ("a: !!int [1]", "is no int"),
        ("a: !!python/name:os.system x", "cannot be given"),
        ("a: !!timestamp x", "cannot be given"),
        ("a: !!binary x", "cannot be given"),
        ("a: &a [*a]", "does not contain itself"),
        ("a: &a {b: *a}", "does not contain itself"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 2", r"= 'line 2': expected YAML \(but found another document\)"),
        ("a: \x00", r"without the character U\+0000"),
        (DEEP, "nested too deep"),
        (BOMB, "at most 200000 values"),
        ("<<: 3", "expected a mapping"),
        ("3", "= 3: expected a mapping of keys to values"),
        ("", "= None: expected a mapping"),
        ("# nothing", "expected a mapping"),
    ],
)  # fmt: skip
def test_text_that_cannot_be_read_is_told_of_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_mapping(text, "scenario")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_of_a_file_give_a_mapping_or_an_input_error(content: bytes) -> None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return
    _read(text)


_PARTS = st.sampled_from(
    ["a", "b", ": ", ", ", "- ", "[", "]", "{", "}", "&a ", "*a", "<<: ", "!!int ", "!!set ", "? ",
     "\n", "  ", "1", "0x1", "1:2", ".nan", "'", '"', "|", ">", "#", "%", "---\n", "\t", "é", "~"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(_PARTS, max_size=25).map("".join))
def test_any_words_of_yaml_give_a_mapping_or_an_input_error(text: str) -> None:
    _read(text)


def _read(text: str) -> None:
    try:
        parse_scenario(text)
    except InputError as error:
        assert not NO_WORDS.search(str(error)) or NO_WORDS.search(text)
        assert len(str(error)) < 5000


_KEYS = st.sampled_from(["epochs", "gamma", "size", "minibatch", "weights", "double", "streams"])
_GIVEN = st.sampled_from(
    ["1", "0", "-1", "1e300", ".nan", ".inf", "010", "true", "[]", "[1, 2]", "{}", "{width: 1e9}",
     "~", "9" * 400, "x", "{centres: 3}", "{load: [1]}"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(_KEYS, _GIVEN), max_size=3))
def test_any_training_config_is_read_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-config.yaml"
    path.write_text("\n".join(f"{key}: {value}" for key, value in lines))
    for read in (read_config, read_dqn_config):
        try:
            read(path)
        except InputError as error:
            assert not NO_WORDS.search(str(error))


def test_files_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    for content, said in (
        (b"a: \xff", "a readable file"),
        (b"#" * (MAX_FILE_BYTES + 1), "a file of at most"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"scenario = .*{said}"):
            load_scenario(path)
    for path in (tmp_path, tmp_path / "none.yaml", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(InputError, match="scenario = "):
            load_scenario(path)


@pytest.mark.parametrize(
    ("old", "new", "field", "expected"),
    [
        ("l3_bytes: 200", "l3_bytes: 63", "chains.0.l3_bytes",
         "a whole number from 64 to 1400 (bytes), or imix"),
        ("l3_bytes: 200", "l3_bytes: large", "chains.0.l3_bytes",
         "a whole number from 64 to 1400, in decimal digits without quotes (bytes), or imix"),
        ("duration_s: 3", "duration_s: 3, arrivals_per_s: -1", "traffic.arrivals_per_s",
         "(per second)"),
        ("duration_s: 3", "duration_s: 3, process: bursty", "traffic.process",
         "one of cbr, poisson, or a mapping whose kind is one of flows, mmpp, on-off, replay"),
        ("duration_s: 3", "duration_s: 3, process: {kind: bursty}", "traffic.process.kind",
         "one of flows, mmpp, on-off, replay"),
        ("duration_s: 3", "duration_s: 3, process: {on_s: 1}", "traffic.process.kind",
         "one of flows, mmpp, on-off, replay (the key is missing)"),
        ("duration_s: 3", "duration_s: 3, process: {kind: on-off, on_s: -1, off_s: 1}",
         "traffic.process.on_s", "(seconds)"),
        ("duration_s: 3", "duration_s: 3, process: {kind: on-off, on_s: 1}",
         "traffic.process.off_s", "a value (the key is missing)"),
        ("duration_s: 3", "duration_s: 3, load: {kind: diurnal, period_s: 9, steps_s: 1}",
         "traffic.load.steps_s", "did you mean step_s?"),
        ("duration_s: 3", "duration_s: 3, applications: [{kind: http, clients: 0}]",
         "traffic.applications.0.request", "the key is missing"),
        ("name: tiny", "name: A^", "name", "1 to 41 small letters, digits and hyphens"),
        ("{name: b}", "{name: b c}", "topology.nodes.1.name", "1 to 21 letters"),
        ("[fw]", "[]", "chains.0.functions", "a list of 1 to 8"),
        ("[fw]", "[fx]", "chains.0.functions.0", "one of nat, fw"),
        ("seeds: [1]", "seeds: 1", "seeds", "a list of"),
        ("servers:", "functions: {fx: {service_s: 1, backup_service_s: 0}}\nservers:",
         "functions.fx", "one of nat, fw"),
        ("servers:", "functions: {fw: 3}\nservers:", "functions.fw", "a mapping"),
        ("servers:", "links: [1]\nservers:", "links", "a mapping"),
        ("{name: a},", "{name: a, latitude_deg: .nan},", "topology.nodes.0.latitude_deg",
         "degrees"),
        ("servers:", "tolerances: {host_idle_percent: .nan}\nservers:",
         "tolerances.host_idle_percent", "a number from 0 to 100 (percent)"),
        ("format: 1", "format: 3", "format", "1 or 2"),
        ("servers:", "links: {propagation_km_per_s: 0}\nservers:", "links.propagation_km_per_s",
         "(kilometres per second)"),
    ],
)  # fmt: skip
def test_an_error_has_the_key_as_the_file_has_it_and_what_is_allowed(
    old: str, new: str, field: str, expected: str
) -> None:
    error = error_of(tiny(old, new))
    assert error.field == field
    assert expected in error.expected


def test_several_errors_are_told_at_once_each_with_its_key() -> None:
    text = tiny("rate_pps: 50, l3_bytes: 200", "rate_pps: -1, l3_bytes: 1, weight: x")
    said = str(error_of(text))
    for key in ("chains.0.rate_pps = -1", "chains.0.l3_bytes = 1", "chains.0.weight = 'x'"):
        assert key in said
    assert "and 2 more" in said


def test_what_is_long_is_cut_in_an_error() -> None:
    assert len(str(error_of(tiny("seeds: [1]", f"seeds: {{a: {list(range(500))}}}")))) < 400
    assert len(str(error_of(tiny("format: 1", f"format: {'9' * 300}")))) < 600
