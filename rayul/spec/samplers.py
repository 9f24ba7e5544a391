"""The samplers a spec can name. `rayul/sweep/search/samplers.py` makes them: a row here is all that one costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Sampler:
    """What is known of a sampler without Optuna, which takes long to import.

    optuna: its class in `optuna.samplers`, and the arguments that class is made with beside the seed: `startup` names
    the one that is `search.startup_trials`, or `least` where that is more; `options` are fixed.
    learns: from all "trials" that ended, also those of another sweep, from "generations" of its own, or from "nothing".
    conditional: whether it models parameters that only some of the searched methods have.
    grid: whether every cell of the space is proposed once, and nothing drawn.
    """

    optuna: str
    startup: str = ""
    least: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    learns: Literal["trials", "generations", "nothing"] = "nothing"
    conditional: bool = True
    grid: bool = False


SAMPLERS: dict[str, Sampler] = {
    # group: a method's own parameters are modelled where the method is; constant_liar: running trials count as taken.
    "tpe": Sampler(
        "TPESampler",
        "n_startup_trials",
        options={"multivariate": True, "group": True, "constant_liar": True},
        learns="trials",
    ),
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
