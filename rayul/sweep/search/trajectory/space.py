"""Configurations of a spec's space as rows of numbers, and new ones to choose from.

A row x [d] has a column for each searched parameter, in the order of the space: of a number its place between the ends
of its range, in [0, 1], on a log scale where the range is one; of a choice among numbers likewise, on a log scale where
all are positive; of any other choice the index of the option; NaN where the method drawn does not have the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from rayul.spec import Choice, Float, Int, Spec
from rayul.sweep.search.trajectory.kernel import Features, Floats

NEAR = (0.03, 0.1, 0.3)
"""Standard deviations of a number's place, one of them for each perturbed configuration."""
FILLING = 64
"""Configurations of the Sobol sequence that are looked at for one that has not been tried."""
KEPT = 0.8
"""Probability that a perturbed configuration keeps a parameter as it is."""
TRUST = 0.75
"""Share of the first trials that a prior draws; the others are spread over the whole range, in case it is wrong."""


class Options:
    """The column of a choice: its places are a table."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        numbers = [float(o) for o in choice.options if isinstance(o, (int, float)) and not isinstance(o, bool)]
        self.categorical = len(numbers) < len(choice.options)
        self.table = np.arange(len(choice.options), dtype=np.float64)
        if not self.categorical:
            scaled = np.log(numbers) if min(numbers) > 0 else np.array(numbers)
            self.table = (scaled - scaled.min()) / (np.ptp(scaled) or 1.0)

    def place(self, value: Any) -> float:
        """Of an option."""
        found = [o == value and isinstance(o, bool) == isinstance(value, bool) for o in self.choice.options]
        return float(self.table[found.index(True)])

    def value(self, place: float) -> Any:
        return self.choice.options[int(np.abs(self.table - place).argmin())]

    def spread(self, u: Floats) -> Floats:
        """Places [n] of numbers u [n] in [0, 1), each option as often as every other."""
        return np.take(self.table, (u * len(self.table)).astype(int), mode="clip")

    likely = spread

    def nearest(self, place: Floats) -> Floats:
        """The places [n] of the options nearest to `place` [n]."""
        which = np.abs(place[:, None] - self.table).argmin(1)
        found: Floats = self.table[which]
        return found


class Range:
    """The column of a range of numbers."""

    categorical = False

    def __init__(self, distribution: Float | Int) -> None:
        self.one = distribution
        ends = np.array([distribution.low, distribution.high], dtype=np.float64)
        self.low, self.high = np.log(ends) if distribution.log else ends

    def place(self, value: Any) -> float:
        return float((self._scaled(value) - self.low) / (self.high - self.low))

    def value(self, place: float) -> Any:
        one, raw = self.one, float(self._raw(np.array([place]))[0])
        if isinstance(one, Int):
            return int(one.low + one.step * round((raw - one.low) / one.step))
        if one.step is None:
            return min(max(raw, one.low), one.high)
        low, step = Decimal(str(one.low)), Decimal(str(one.step))  # 0.1 + 2 * 0.1 is beyond 0.3
        return float(low + step * round((raw - one.low) / one.step))

    def spread(self, u: Floats) -> Floats:
        """Places [n] of numbers u [n] in [0, 1), single values each as often as every other unless on a log scale."""
        if self.one.count is not None and not self.one.log:
            u = (u * self.one.count - 0.5) / max(1, self.one.count - 1)
        return self.nearest(u)

    def likely(self, u: Floats) -> Floats:
        """Places [n] of numbers u [n] in [0, 1) as the prior has them: a normal distribution cut off at the ends of the
        range for a share TRUST, and `spread` for the rest; without a prior `spread` alone."""
        prior = self.one.prior
        if prior is None:
            return self.spread(u)
        width = np.log(prior.spread) if self.one.log else prior.spread
        center, sd = self.place(prior.center), width / (self.high - self.low)
        below, above = ndtr((0.0 - center) / sd), ndtr((1.0 - center) / sd)
        drawn = center + sd * ndtri(below + np.minimum(u / TRUST, 1.0) * (above - below))
        return np.where(u < TRUST, self.nearest(drawn), self.spread(np.maximum(u - TRUST, 0.0) / (1.0 - TRUST)))

    def nearest(self, place: Floats) -> Floats:
        """The places [n] of the values nearest to `place` [n]."""
        one = self.one
        if one.step is None or one.count is None:
            return np.clip(place, 0.0, 1.0)
        which = np.rint((self._raw(np.clip(place, 0.0, 1.0)) - one.low) / one.step)
        values = self._scaled(one.low + one.step * np.clip(which, 0, one.count - 1))
        return np.asarray((values - self.low) / (self.high - self.low))

    def _scaled(self, value: Any) -> Floats:
        scaled = np.asarray(value, dtype=np.float64)
        return np.asarray(np.log(scaled) if self.one.log else scaled)

    def _raw(self, place: Floats) -> Floats:
        scaled = self.low + place * (self.high - self.low)
        return np.asarray(np.exp(scaled) if self.one.log else scaled)


class Space:
    """The space of a spec; `method.name`, where it is searched, decides which columns a configuration has."""

    def __init__(self, spec: Spec) -> None:
        self.keys = list(spec.space)
        self.columns = [Options(one) if isinstance(one, Choice) else Range(one) for one in spec.space.values()]
        self.method = self.keys.index("method.name") if "method.name" in self.keys else None
        searched = spec.space.get("method.name")
        names = searched.options if isinstance(searched, Choice) else (spec.method.name,)
        self.active = np.array([[spec.is_active(key, {"method.name": name}) for key in self.keys] for name in names])

    @cached_property
    def features(self) -> Features:
        categorical = np.array([column.categorical for column in self.columns], dtype=bool)
        return Features.of(categorical, self.active.sum(axis=0) < len(self.active))

    def encode(self, params: Mapping[str, Any]) -> Floats | None:
        """x [d]; None where a parameter that the configuration has is not known."""
        x = np.full(len(self.keys), np.nan)
        for i, key in enumerate(self.keys):
            if key in params:
                x[i] = self.columns[i].place(params[key])
        known = self._only_active(x[None])[0]
        wanted = self._active(known[None])[0]
        return known if not (np.isnan(known) & wanted).any() else None

    def decode(self, x: Floats) -> dict[str, Any]:
        return {
            key: column.value(place)
            for key, column, place in zip(self.keys, self.columns, x, strict=True)
            if not np.isnan(place)
        }

    def filling(self, number: int, seed: int) -> Floats:
        """Configurations [m, d] of a scrambled Sobol sequence from `number` on; the whole fills the space evenly, where
        it has priors as these have it."""
        from scipy.stats import qmc  # half a second to import, for one sampler

        sequence = qmc.Sobol(len(self.keys), rng=np.random.default_rng(seed))
        if number:  # SciPy 1.17 cannot go forward by 0
            sequence.fast_forward(number)
        return self._spread(sequence.random(FILLING), likely=True)

    def draws(self, count: int, rng: np.random.Generator) -> Floats:
        """[count, d], each parameter on its own."""
        return self._spread(rng.random((count, len(self.keys))))

    def near(self, x: Floats, count: int, rng: np.random.Generator) -> Floats:
        """`count` configurations around each of x [n, d]."""
        base = np.repeat(x, count, axis=0)
        fresh = self._spread(rng.random(base.shape), masked=False)
        scale = rng.choice(NEAR, size=(len(base), 1))
        shifted = base + scale * rng.standard_normal(base.shape)
        for i, column in enumerate(self.columns):
            known = ~np.isnan(base[:, i])
            shifted[known, i] = fresh[known, i] if column.categorical else column.nearest(shifted[known, i])
        changed = rng.random(base.shape) >= KEPT
        changed[np.arange(len(base)), rng.integers(len(self.keys), size=len(base))] = True
        mixed = np.where(changed, shifted, base)
        return self._only_active(np.where(np.isnan(mixed), fresh, mixed))

    def steps(self, x: Floats) -> Floats:
        """[n], to which step of training each of x [n, d] comes."""
        if "training.steps" not in self.keys:
            return np.full(len(x), np.inf)
        i = self.keys.index("training.steps")
        return np.array([self.columns[i].value(place) for place in x[:, i]], dtype=np.float64)

    def _spread(self, u: Floats, masked: bool = True, likely: bool = False) -> Floats:
        ways = [column.likely if likely else column.spread for column in self.columns]
        x = np.column_stack([way(u[:, i]) for i, way in enumerate(ways)])
        return self._only_active(x) if masked else x

    def _only_active(self, x: Floats) -> Floats:
        return np.where(self._active(x), x, np.nan)

    def _active(self, x: Floats) -> NDArray[np.bool_]:
        if self.method is None:
            return np.broadcast_to(self.active[0], x.shape)
        return np.take(self.active, np.nan_to_num(x[:, self.method]).astype(int), axis=0)
