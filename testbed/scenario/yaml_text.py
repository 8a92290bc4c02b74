"""Reads a mapping from YAML, or from JSON, which is YAML; refuses what could be read in two ways.

Plain scalars mean what YAML 1.2 says, whose numbers are decimal: a number with a leading zero,
`1:30`, `1_000`, `0x1f`, `0b1`, a date, `yes`, `no`, `on` and `off`, of which YAML 1.1 makes other
things, are text, and so are refused wherever a number or true or false belongs. Merge keys (`<<`),
anchors and aliases are read as YAML 1.1 has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from testbed.scenario.errors import InputError

MAX_FILE_BYTES = 1 << 18
MAX_DEPTH = 50
MAX_VALUES = 200_000
"""Values of a file at most, those that aliases repeat counted each time."""

_NULL, _BOOL, _INT, _FLOAT, _TEXT, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "merge")
)
_PLAIN = (
    (_NULL, re.compile(r"(~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    (_BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    (_INT, re.compile(r"[-+]?(0|[1-9][0-9]{0,399})\Z"), list("-+0123456789")),
    (
        _FLOAT,
        re.compile(
            r"([-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
        ),
        list("-+.0123456789"),
    ),
    (_MERGE, re.compile(r"<<\Z"), ["<"]),
)
"""What plain scalars stand for, by how they look; any other is text."""


class _Loader(yaml.SafeLoader):
    """Builds null, true, false, numbers, text, lists and mappings, and nothing else."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node and what is below it; refuses what is nested too deep for the stack."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _scalar(kind: str, build: Callable[[str], Any]) -> Callable[[_Loader, yaml.Node], Any]:
    """Builds `kind` from the text of a scalar that looks like it, whether or not a tag said so."""
    pattern = next(pattern for tag, pattern, _ in _PLAIN if tag == kind)

    def construct(loader: _Loader, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode) or not pattern.match(node.value):
            problem = f"{node.value!r} is no {kind.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return build(node.value)

    return construct


def _unknown(loader: _Loader, node: yaml.Node) -> Any:
    problem = f"values of the kind {node.tag} cannot be given"
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
_Loader.yaml_constructors = {
    _NULL: _scalar(_NULL, lambda text: None),
    _BOOL: _scalar(_BOOL, lambda text: text.lower() == "true"),
    _INT: _scalar(_INT, int),
    _FLOAT: _scalar(_FLOAT, lambda text: float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))),
    _TEXT: _Loader.construct_yaml_str,
    _MERGE: _Loader.construct_yaml_str,
    "tag:yaml.org,2002:seq": _Loader.construct_yaml_seq,
    "tag:yaml.org,2002:map": _Loader.construct_yaml_map,
    None: _unknown,
}


def read_mapping(path: Path, field: str) -> Mapping[str, Any]:
    """The mapping in the file at `path`; InputError naming `field` if it holds none."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(field, str(path), f"a readable file ({error})") from error
    if len(content) > MAX_FILE_BYTES:
        raise InputError(field, str(path), f"a file of at most {MAX_FILE_BYTES} bytes")
    return parse_mapping(text, field)


def parse_mapping(text: str, field: str) -> Mapping[str, Any]:
    """The mapping in YAML `text`; InputError naming `field` and the line if it holds none.

    All its keys, at any depth, are text, and none is there twice.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _inspect(node, field, {})
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "the text" if mark is None else f"line {mark.line + 1}"
        problem = " ".join(str(error.problem or error.context).split())
        raise InputError(field, line, f"YAML ({problem})") from error
    except yaml.reader.ReaderError as error:
        said = f"YAML without the character U+{error.character:04X} (position {error.position})"
        raise InputError(field, "the text", said) from error
    if not isinstance(data, Mapping):
        raise InputError(field, data, "a mapping of keys to values")
    return data


def _inspect(node: yaml.Node, field: str, sizes: dict[yaml.Node, int | None]) -> int:
    """How many values a node holds, itself among them; InputError for what is not to be built.

    `sizes` are those of the nodes seen so far, None of those that hold this one.
    """
    known = sizes.setdefault(node, None)
    if known is not None:
        return known
    size = 1
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, field)
        size += sum(_inside(value, field, sizes) for _, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_inside(value, field, sizes) for value in node.value)
    if size > MAX_VALUES:
        line = node.start_mark.line + 1
        raise InputError(field, f"line {line}", f"at most {MAX_VALUES} values, with all aliases")
    sizes[node] = size
    return size


def _inside(node: yaml.Node, field: str, sizes: dict[yaml.Node, int | None]) -> int:
    if node in sizes and sizes[node] is None:
        line = node.start_mark.line + 1
        raise InputError(field, f"line {line}", "a value that does not contain itself")
    return _inspect(node, field, sizes)


def _check_keys(mapping: yaml.MappingNode, field: str) -> None:
    seen = set()
    for key, _ in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TEXT, _MERGE):
            shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping as a key"
            expected = f"text as a key, in quotes if it looks like a number (line {line})"
            raise InputError(field, shown, expected)
        if key.value in seen:
            raise InputError(key.value, "given twice", f"one value (line {line})")
        seen.add(key.value)
