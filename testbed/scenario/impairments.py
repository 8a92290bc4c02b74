"""What a link does to frames beside carrying them. Pure values and the formulas of burst loss."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Loss in bursts: a chain of two states, one step a frame (Gilbert 1960, Elliott 1963).

    `to_bad` and `to_good` are the chances to change state after a frame, `loss_bad` and
    `loss_good` those to lose a frame in a state: netem's p, r, 1-h and 1-k.
    """

    to_bad: float
    to_good: float
    loss_bad: float = 1.0
    loss_good: float = 0.0

    @property
    def bad_share(self) -> float:
        """The stationary share of the bad state, p / (p + r); 0 if the state never changes."""
        total = self.to_bad + self.to_good
        return self.to_bad / total if total > 0 else 0.0

    @property
    def loss(self) -> float:
        """The share of frames that are lost in the long run."""
        bad = self.bad_share
        return bad * self.loss_bad + (1.0 - bad) * self.loss_good

    @property
    def mean_burst(self) -> float:
        """Frames lost in a row on average: P(lost) / P(lost, and the one before was not).

        1 / `to_good` if the bad state loses all and the good one none. 0 if nothing is lost,
        infinite if all is.
        """
        if self.loss == 0.0:
            return 0.0
        bad, good = self.bad_share * self.loss_bad, (1.0 - self.bad_share) * self.loss_good
        after_bad = (1.0 - self.to_good) * self.loss_bad + self.to_good * self.loss_good
        after_good = (1.0 - self.to_bad) * self.loss_good + self.to_bad * self.loss_bad
        begins = self.loss - (bad * after_bad + good * after_good)
        return self.loss / begins if begins > 1e-15 else float("inf")

    @property
    def memory(self) -> float:
        """Correlation of the state from one frame to the next, 1 - p - r."""
        return 1.0 - self.to_bad - self.to_good


@dataclass(frozen=True, slots=True)
class Impairments:
    """What happens to the frames of each direction of a link.

    The delay is uniform within `jitter_ns` around the link's, never below 0; frames stay in
    order unless `jitter_reorders`. `loss`, `reorder` and `duplicate` are chances of a frame to be
    lost, to go without the delay, and to come twice; `burst` is a loss of its own beside `loss`.
    """

    jitter_ns: int = 0
    jitter_reorders: bool = False
    loss: float = 0.0
    burst: GilbertElliott | None = None
    reorder: float = 0.0
    duplicate: float = 0.0

    @property
    def total_loss(self) -> float:
        """The share of frames that are lost for one reason or the other in the long run."""
        burst = 0.0 if self.burst is None else self.burst.loss
        return 1.0 - (1.0 - self.loss) * (1.0 - burst)


UNIMPAIRED = Impairments()
"""A link that does nothing to frames."""
