"""The samplers a spec can name. `rayul/sweep/search/samplers.py` makes them: a row here is all that one costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

MOST_OBJECTIVES = 3
"""That a model of trajectories can take: what a point adds to a front takes ever longer with more."""


@dataclass(frozen=True)
class Sampler:
    """What is known of a sampler without Optuna, which takes long to import.

    optuna: its class in `optuna.samplers`, and the arguments that class is made with beside the seed: `startup` names
    the one that is `search.startup_trials`, or `least` where that is more; `options` are fixed.
    learns: from all "trials" that ended, also those of another sweep, from "generations" of its own, or from "nothing".
    conditional: whether it models parameters that only some of the searched methods have.
    trajectories: whether it is rayul's own, which models every evaluation of a trial, and for how many trials at most:
        those after them are for the class in `optuna`.
    grid: whether every cell of the space is proposed once, and nothing drawn.
    """

    optuna: str
    startup: str = ""
    least: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    learns: Literal["trials", "generations", "nothing"] = "nothing"
    conditional: bool = True
    trajectories: int = 0
    grid: bool = False


# group: a method's own parameters are modelled where the method is; constant_liar: running trials count as taken.
_TPE = Sampler(
    "TPESampler",
    "n_startup_trials",
    options={"multivariate": True, "group": True, "constant_liar": True},
    learns="trials",
)

SAMPLERS: dict[str, Sampler] = {
    "tpe": _TPE,
    # A proposal takes time with the square of the trials: rayul/sweep/search/trajectory/.
    "trajectory": replace(_TPE, trajectories=500),
    "nsga2": Sampler("NSGAIISampler", "population_size", least=2, learns="generations"),
    "nsga3": Sampler("NSGAIIISampler", "population_size", least=2, learns="generations"),
    # With conditional parameters GP has no model for those outside the common space and draws them at random.
    "gp": Sampler(
        "GPSampler",
        "n_startup_trials",
        options={"warn_independent_sampling": False},
        learns="trials",
        conditional=False,
    ),
    "random": Sampler("RandomSampler"),
    # Every cell of a grid is enqueued (GridSampler raises on the last cell under ask/tell); nothing is left to draw.
    "grid": Sampler("RandomSampler", grid=True),
}
