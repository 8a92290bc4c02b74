"""How the policies of a problem are compared where many episodes are cheap: figures and words.

Pure values: an evaluation keeps them in its manifest, so that its page can be made anew from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure. A raw value times `scale` is in `unit`; `form` is a format spec for it.

    `difference_unit` is that of the difference of two values, if it is another. A figure that adds
    up over cells may be 0 in some, and is compared by its total. No value is below 0 or beyond
    `most`. One that is not `compared`, a wall time, is of the machine and stands beside. One that
    is `told` is in the page's tables of comparisons; the others say much the same.
    """

    key: str
    label: str
    unit: str
    scale: float
    form: str
    more_is_better: bool = False
    difference_unit: str | None = None
    adds_up: bool = False
    most: float = math.inf
    compared: bool = True
    told: bool = True
    logarithmic: bool = False

    def text(self, value: float | None) -> str:
        """A raw value in the figure's unit; a dash if there is none."""
        return "–" if value is None else format(value * self.scale, self.form)


@dataclass(frozen=True, slots=True)
class Contest:
    """What an evaluation shows of a problem; figures by their keys.

    figures     all that a row of raw values has
    best        by which the best heuristic of a cell is chosen
    headline    what the sentences at the top are about
    screen      by importance: as many as a screen has room for
    plotted     what is drawn over the load
    world       where the policies decide, e.g. "on the twin"
    place       what a row's `place` is, e.g. "topology", and `places` several of them
    method      (term, meaning), for the page's last part
    """

    figures: tuple[Figure, ...]
    best: str
    headline: tuple[str, ...]
    screen: tuple[str, ...]
    plotted: tuple[str, ...]
    world: str
    place: str
    places: str
    method: tuple[tuple[str, str], ...]

    def figure(self, key: str) -> Figure:
        """The figure with this key; KeyError if there is none."""
        return {figure.key: figure for figure in self.figures}[key]

    @property
    def compared(self) -> tuple[Figure, ...]:
        """What policies are compared by."""
        return tuple(figure for figure in self.figures if figure.compared)

    @property
    def told(self) -> tuple[Figure, ...]:
        """What tables of comparisons have room for."""
        return tuple(figure for figure in self.compared if figure.told)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; a bound that is none is null."""
        content = asdict(self)
        for figure in content["figures"]:
            figure["most"] = figure["most"] if math.isfinite(figure["most"]) else None
        return content


def contest_of(content: Mapping[str, Any]) -> Contest:
    """What `to_json` gave."""
    figures = tuple(
        Figure(**{**each, "most": math.inf if each["most"] is None else each["most"]})
        for each in content["figures"]
    )
    return Contest(
        figures=figures,
        best=content["best"],
        headline=tuple(content["headline"]),
        screen=tuple(content["screen"]),
        plotted=tuple(content["plotted"]),
        world=content["world"],
        place=content["place"],
        places=content["places"],
        method=tuple((term, meaning) for term, meaning in content["method"]),
    )
