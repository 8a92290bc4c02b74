"""What `check` calls valid is built, run and reported; drawn scenarios, always the same few."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.support.drawn_runs import carried_out, check_carried_out, soon_done
from tests.support.scenario_drawn import scenarios

pytestmark = pytest.mark.emulation


@settings(
    max_examples=3,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(scenarios().filter(soon_done))
def test_what_check_calls_valid_is_run_and_reported(data: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check_carried_out(data, carried_out(data, folder), folder)
