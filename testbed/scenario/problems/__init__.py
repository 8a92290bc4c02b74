"""The section `problem` of a scenario: one of these, told apart by its name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from testbed.scenario.problems.placement import PlacementSpec
from testbed.scenario.problems.provisioning import ProvisioningSpec

ProblemSpec = Annotated[PlacementSpec | ProvisioningSpec, Field(discriminator="name")]
