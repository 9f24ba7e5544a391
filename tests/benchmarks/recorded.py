"""Recorded spaces: what the search benchmark (search.py) answers proposals from.

`recording(path)` reads one:

- trajectories.jsonl, of trajectories.py: 512 configurations, every one of a grid. A step has the mean es of two sets.
- space.parquet, of space_record.py: a random part of a grid of 1,536, or all of it. A step has sums of es by author
  along a dial, from which `Wide.trials` makes what a search sees that has drawn some of the authors to select by, and
  `Wide.certified` what certifying with others says of the points it found.
"""

from __future__ import annotations

import json
import math
from functools import cached_property, lru_cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import trajectories
from numpy.typing import NDArray
from trajectories import Point

LIMIT = 0.9
"""Of retain.es, as a share of the baseline."""
SELECT, CERTIFY = 20, 40
"""Authors that a search of the wide space selects and certifies by."""
DIALS, ALPHA = 5, 0.1
"""Points that get a certificate, and the probability that a limit is broken, which they share."""

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """One evaluation with what it took: seconds since the one before."""

    step: int
    rows: list[Point]
    seconds: float


class Certified(NamedTuple):
    """forgotten: of what certificates pass, the share that is gone of the point that forgets most, 0 without any;
    broken: whether it breaks the limit over all authors; volume: hypervolume of all certified points, with what they
    keep over all authors."""

    forgotten: float
    broken: bool
    volume: float


class Recorded:
    """spec: of the recorded space. keys: of the configurations."""

    def __init__(self, spec: Any, keys: list[str]) -> None:
        self.spec = spec
        self.cells = [json.loads(key) for key in keys]
        self.space: dict[str, list[Any]] = {
            key: [option for option in choice.options if any(cell[key] == option for cell in self.cells)]
            for key, choice in spec.space.items()
        }

    @cached_property
    def places(self) -> Floats:
        """[cells, keys]: of a number its place among the options, of another choice its index."""
        return np.array([self._place(cell) for cell in self.cells])

    def nearest(self, params: dict[str, Any], taken: set[str]) -> dict[str, Any]:
        """The recorded configuration of these parameters, or, of those that are not `taken`, the one that differs
        least: the sum of squared differences, a number's in units of its range, 1 for another option."""
        if params in self.cells:
            return params
        numbers = np.array([_ordered(options) for options in self.space.values()])
        apart = np.abs(self.places - self._place(params))
        apart = np.where(numbers, apart, apart > 0) ** 2
        order = np.argsort(apart.sum(1), kind="stable")
        return next((self.cells[i] for i in order if trajectories.key_of(self.cells[i]) not in taken), params)

    def _place(self, params: dict[str, Any]) -> list[float]:
        places = []
        for key, options in self.space.items():
            index = options.index(params[key])
            places.append(index / max(1, len(options) - 1) if _ordered(options) else float(index))
        return places


def _ordered(options: list[Any]) -> bool:
    return all(isinstance(option, (int, float)) and not isinstance(option, bool) for option in options)


class Grid(Recorded):
    """Of trajectories.jsonl."""

    def __init__(self, known: dict[str, list[Point]]) -> None:
        super().__init__(trajectories.space_spec(), list(known))
        self.known = known
        wanted = math.prod(map(len, self.space.values()))
        if len(known) != wanted:
            raise SystemExit(f"{len(known)} of {wanted} configurations are recorded: run trajectories.py to its end")

    def trials(self, mixing: bool, seed: int) -> dict[str, list[Interval]]:
        """The trajectories as an arm meets them: without mixing only the rows of mixing 1, and their forwards."""
        forward = seconds_of_a_forward(self.known)
        found = {}
        for key, points in self.known.items():
            steps = [list(rows) for _, rows in groupby(points, lambda point: point.step)]
            training = (points[-1].cpu - forward * (len(points) - 1)) / max(1, len(steps) - 1)
            found[key] = [
                Interval(
                    rows[0].step,
                    rows if mixing else rows[:1],
                    (max(0.0, training) + forward * (len(rows) if mixing else 1)) if rows[0].step else 0.0,
                )
                for rows in steps
            ]
        return found

    def certified(self, front: list[tuple[str, int]], seed: int) -> Certified | None:
        return None


def seconds_of_a_forward(known: dict[str, list[Point]]) -> float:
    """Least squares of seconds on forwards between two evaluations, each trajectory with its own training time."""
    x, y = [], []
    for points in known.values():
        steps = [list(rows) for _, rows in groupby(points, lambda point: point.step)]
        spent = np.array([b[0].cpu - a[0].cpu for a, b in pairwise(steps)])
        forwards = np.array([len(rows) for rows in steps[1:]])
        x.append(forwards - forwards.mean())
        y.append(spent - spent.mean())
    forwards, spent = np.concatenate(x), np.concatenate(y)
    return float(forwards @ spent / (forwards @ forwards))


class Dialled(NamedTuple):
    """One evaluation: shares [c, authors] of the baseline's es at mixing coefficients [c], 0 and 1 the ends; seconds of
    training since the one before."""

    mixings: Floats
    shares: Floats
    seconds: float

    def at(self, mixing: float) -> Floats:
        """[authors], on the line between two coefficients."""
        j = int(np.clip(np.searchsorted(self.mixings, mixing), 1, len(self.mixings) - 1))
        low, high = self.mixings[j - 1 : j + 1]
        w = (mixing - low) / (high - low)
        shares: Floats = (1 - w) * self.shares[j - 1] + w * self.shares[j]
        return shares


class Wide(Recorded):
    """Of space.parquet; replicate: which of the training seeds."""

    def __init__(self, path: Path, replicate: int = 0) -> None:
        from rayul.spec import load_spec

        table = pq.read_table(path)
        authors = json.loads(table.schema.metadata[b"authors"])
        rows = table.to_pylist()
        whole = np.array(next(row["sums"] for row in rows if row["number"] < 0), dtype=np.float64)
        if (whole == 0).any():
            raise SystemExit("an author of whom the baseline knows nothing has no share to keep")
        self.forgets = np.array([author.startswith("forget/") for author in authors])
        self.runs: dict[str, dict[int, Dialled]] = {}
        forwards = []
        mine = sorted(
            (row for row in rows if row["number"] >= 0 and row["replicate"] == replicate),
            key=lambda row: (row["number"], row["step"], row["mixing"]),
        )
        for (_, step), some in groupby(mine, key=lambda row: (row["number"], row["step"])):
            at = list(some)
            known = self.runs.setdefault(at[0]["params"], {})
            mixings = np.array([0.0, *(round(row["mixing"], 4) for row in at)])
            shares = np.array([whole, *(row["sums"] for row in at)]) / whole
            spent = at[0]["train_seconds"] - sum(one.seconds for one in known.values())
            known[step] = Dialled(mixings, shares, spent)
            forwards += [row["score_seconds"] for row in at if row["mixing"] < 1]
        self.forward = float(np.median(forwards))
        super().__init__(load_spec(Path(__file__).with_name("search_space_wide.yaml")), list(self.runs))

    def authors(self, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Those that the search of this seed selects and certifies by."""
        others = np.random.default_rng(seed).permutation(np.flatnonzero(~self.forgets))
        return others[:SELECT], others[SELECT : SELECT + CERTIFY]

    def trials(self, mixing: bool, seed: int) -> dict[str, list[Interval]]:
        """The trajectories as a search meets them that selects by the authors of this seed."""
        select, _ = self.authors(seed)
        found = {}
        for key, steps in self.runs.items():
            begin = Point(0, 1.0, 1.0, 1.0, 0.0)
            found[key] = [Interval(0, [begin], 0.0)]
            for step, one in steps.items():
                rows = self._rows(step, one, select, mixing)
                found[key].append(Interval(step, rows, one.seconds + self.forward * len(rows)))
        return found

    def _rows(self, step: int, one: Dialled, select: NDArray[np.int64], mixing: bool) -> list[Point]:
        """As `evaluation_rows` gives them: every coefficient tried, with mixing the calibrated one last."""
        from rayul.unlearn.calibrate import calibrate

        def point(a: float) -> Point:
            shares = one.at(a)
            forget, kept = shares[self.forgets], shares[select]
            errors = (float(part.std(ddof=1) / math.sqrt(len(part))) for part in (forget, kept))
            return Point(step, a, float(forget.mean()), float(kept.mean()), 0.0, *errors)

        if not mixing:
            return [point(1.0)]
        calibration = calibrate(lambda a: max(0.0, LIMIT - point(a).retain))
        tried = [point(a) for a, _ in calibration.tried if a != calibration.mixing]
        best = point(calibration.mixing) if calibration.mixing else Point(step, 0.0, 1.0, 1.0, 0.0)
        return [*tried, best]

    def certified(self, front: list[tuple[str, int]], seed: int) -> Certified:
        """Certificates of these points (configuration, step), as rayul's: dials with t tests."""
        import moocore

        from rayul.pareto.certificate import dial, t_p_values, walk

        _, certify = self.authors(seed)
        passed = []
        for key, step in front:
            one = self.runs[key][step]
            margins = np.array([one.at(a)[certify] for a in dial().tolist()]) - LIMIT
            far = walk([t_p_values(margins)], ALPHA / DIALS).passed
            if far:
                shares = one.at(float(dial()[far - 1]))
                passed.append((1 - shares[self.forgets].mean(), shares[~self.forgets].mean()))
        gone = [(g, kept) for g, kept in passed if g >= 0.05]
        if not gone:
            return Certified(0.0, False, 0.0)
        scored = np.array([(g, (kept - LIMIT) / (1 - LIMIT)) if kept >= LIMIT else (0.0, 0.0) for g, kept in gone])
        volume = float(moocore.hypervolume(scored, ref=np.zeros(2), maximise=True))
        forgotten, kept = max(gone)
        return Certified(float(forgotten), bool(kept < LIMIT), volume)


@lru_cache(maxsize=2)
def recording(path: Path, batch_size: int | None = None) -> Grid | Wide:
    """batch_size: only the half of a grid that has it."""
    if path.suffix == ".parquet":
        return Wide(path)
    known = trajectories.load(path)
    return Grid({k: v for k, v in known.items() if batch_size in (None, json.loads(k)["training.batch_size"])})
