"""The heuristics and solvers that a learned placement is compared with; a file each."""

from agents.placement.baselines.deft import DeftPolicy
from agents.placement.baselines.fit import BestFitPolicy, FirstFitPolicy, RoundRobinPolicy
from agents.placement.baselines.greedy_delay import GreedyDelayPolicy
from agents.placement.baselines.pl_rank import PlRankPolicy
from agents.placement.baselines.uniform import RandomPolicy

__all__ = [
    "BestFitPolicy",
    "DeftPolicy",
    "FirstFitPolicy",
    "GreedyDelayPolicy",
    "PlRankPolicy",
    "RandomPolicy",
    "RoundRobinPolicy",
]
