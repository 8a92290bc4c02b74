"""Reads the manifest of a run and checks every entry that figures and pages need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from testbed.records.raw import RawFormatError
from testbed.scenario.wording import input_error

FORMAT = 1
_Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_Number = Annotated[float, Field(allow_inf_nan=False, gt=-1e15, lt=1e15)]


class _Part(BaseModel):
    """Some fields of an object, which may have others."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Node(_Part):
    name: str
    longitude_deg: _Number
    latitude_deg: _Number


class _Link(_Part):
    a: _Count
    b: _Count
    delay_ns: _Count = 0


class _Topology(_Part):
    nodes: list[_Node]
    links: list[_Link]


class _Server(_Part):
    node: _Count
    cpu_cores: _Number


class _Request(_Part):
    id: _Count
    chain: str
    l3_bytes: _Count
    source: _Count | None = None


class _Application(_Part):
    kind: str
    request: _Count
    at_ns: _Count
    end_ns: _Count


class RunManifest(_Part):
    """Of a run; a field that is missing here is one that this version need not know."""

    format: _Count = FORMAT
    policy: str | None = None
    seed: _Count | None = None
    complete: bool = False
    valid: bool | None = None
    reasons: list[str] = []
    origin_ns: _Count = 0
    duration_ns: _Count | None = None
    plan_digest: str | None = None
    topology: _Topology = _Topology(nodes=[], links=[])
    servers: list[_Server] = []
    requests: list[_Request] = []
    applications: list[_Application] = []
    backends: dict[str, Any] | None = None
    replication: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None


class ResultsManifest(_Part):
    """Of a results folder: what was to be run, and how long it took."""

    format: _Count = FORMAT
    scenario: str
    complete: bool = False
    baseline: str
    policies: list[str]
    seeds: list[_Count]
    unfair: list[str] = []
    phases: dict[str, _Number] = {}
    backends: dict[str, Any] | None = None


_Model = TypeVar("_Model", bound=_Part)


def read_run_manifest(path: Path) -> Mapping[str, Any]:
    """The manifest.json of a run; raises RawFormatError that names the file and the field."""
    content = read_object(path)
    checked = _checked(RunManifest, content, path)
    nodes = len(checked.topology.nodes)
    ends = [end for link in checked.topology.links for end in (link.a, link.b)]
    strangers = {each for each in [*ends, *(s.node for s in checked.servers)] if each >= nodes}
    if strangers and nodes:
        raise RawFormatError(f"{path}: topology", sorted(strangers), f"nodes below {nodes}")
    return content


def read_results_manifest(path: Path) -> Mapping[str, Any]:
    """The manifest.json of a results folder; raises RawFormatError as `read_run_manifest`."""
    content = read_object(path)
    _checked(ResultsManifest, content, path)
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises RawFormatError for anything else, or if there is none."""
    try:
        content = json.loads(path.read_bytes().decode())
    except OSError as error:
        raise RawFormatError(str(path), error.strerror, "a file that can be read") from error
    except (ValueError, RecursionError) as error:
        raise RawFormatError(str(path), str(error), "an object in JSON") from error
    if not isinstance(content, dict):
        raise RawFormatError(str(path), content, "an object in JSON")
    return content


def _checked(model: type[_Model], content: Mapping[str, Any], path: Path) -> _Model:
    version = content.get("format", FORMAT)
    if isinstance(version, int) and version > FORMAT:
        expected = f"at most {FORMAT}: it was written by a newer version of deftbed"
        raise RawFormatError(f"{path}: format", version, expected)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        wrong = input_error(error, content, model.model_json_schema())
        raise RawFormatError(f"{path}: {wrong.field}", wrong.value, wrong.expected) from error
