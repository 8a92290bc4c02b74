"""The published JSON schema of scenario files (scenarios/schema.json)."""

from __future__ import annotations

import json

from testbed.scenario.model import Scenario


def schema_text() -> str:
    """The schema as it is published; `python -m testbed.scenario.schema` prints it."""
    return json.dumps(Scenario.model_json_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
