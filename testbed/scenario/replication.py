"""How state is replicated and failures are detected: the part `replication` of a scenario file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from testbed.scenario.base import Model, Timer
from testbed.scenario.types import ReplicationMode


class ReplicationSpec(Model):
    """How state is replicated and failures are detected."""

    mode: ReplicationMode = "pipelined"
    backups: int = Field(
        default=1,
        ge=0,
        le=3,
        description="of each group: as many members may fail at once; mode none has none",
    )
    batch_packets: int = Field(default=80, ge=1, le=1000)
    batch_s: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="a batch waits this long for more; 0 sends when input runs empty",
    )
    gap_timeout_s: Timer = 0.05
    retransmit_s: Timer = 0.1
    buffer_packets: int = Field(
        default=4096, ge=1, le=1 << 16, description="bound of each packet buffer"
    )
    heartbeat_s: Timer = 0.05
    failure_timeout_s: Timer = 0.25
    lease_s: Timer | None = Field(
        default=None,
        description="a primary releases outputs this long after a message that was acknowledged; "
        "by default as long as failure_timeout_s",
    )
    fdu_members: Literal[1, 3, 5, 7] = Field(
        default=3, description="processes of the failure detection unit; a majority decides"
    )
    without_backup: Literal["safety", "availability"] = Field(
        default="safety",
        description="when the last backup is lost: hold outputs until a new one has caught up, "
        "or go on unprotected",
    )
    replace_backups: bool = Field(
        default=True, description="a group that lost a member gets a new backup"
    )
    share_s: Timer = Field(
        default=1.0, description="how often a group tells the others what it has counted"
    )
    move_hold_s: Timer = Field(
        default=0.1, description="how long a move may hold inputs at the hand-over"
    )
    move_overflow: Literal["refuse", "declare"] = Field(
        default="refuse",
        description="beyond that: give up the move, or hand over and declare what is lost",
    )

    @model_validator(mode="after")
    def _heartbeats(self) -> ReplicationSpec:
        if self.failure_timeout_s < 2 * self.heartbeat_s:
            raise ValueError("failure_timeout_s of at least two heartbeat_s")
        return self

    @model_validator(mode="after")
    def _outputs_can_leave(self) -> ReplicationSpec:
        alone = self.mode != "none" and self.backups == 0
        if alone and self.without_backup == "safety":
            raise ValueError(
                "without_backup: availability if backups is 0: outputs would wait for a backup"
            )
        return self

    @property
    def backups_wanted(self) -> int:
        """How many backups a group has in this mode."""
        return 0 if self.mode == "none" else self.backups
