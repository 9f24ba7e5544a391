"""A plan: everything about a sweep that can be known before it runs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayul.plan.history import Saved, saved_by_pruning
from rayul.plan.space import size
from rayul.plan.warnings import warnings
from rayul.spec import Spec, heaviest

if TYPE_CHECKING:
    from rayul.sweep.cluster import Share
    from rayul.unlearn.cost import Cost

SAMPLES = 3
_ROW_BYTES = 1500
"""Of one evaluation in the journal, in the tables and in the report together, as measured on the testbed."""


@dataclass(frozen=True)
class Plan:
    """All times are upper bounds: every trial costs what the most expensive one costs that the space allows, and trials
    that share a GPU gain nothing by it."""

    spec: Spec
    results: Path
    combinations: int
    continuous: tuple[str, ...]
    rows: dict[str, int]
    samples: dict[str, list[str]]
    """By set; without the forget set unless it was asked for."""
    probed: dict[str, Any]
    """The settings that the cost was measured at."""
    cost: Cost
    share: Share
    saved: Saved | None
    disk_free: int

    @property
    def on_gpu(self) -> bool:
        return self.share.gpu > 0

    @property
    def slots(self) -> int:
        return self.share.slots

    @property
    def trials(self) -> int:
        return (
            min(self.spec.search.trials, self.combinations)
            if self.spec.search.sampler == "grid"
            else (self.spec.search.trials)
        )

    @property
    def measurements(self) -> int:
        """Passes over the evaluated rows in one trial, at the most: calibration tries several mixings a time."""
        from rayul.unlearn.calibrate import BISECTIONS, GRID

        bisections = BISECTIONS * max(1, len(self.spec.targets))
        return self.cost.evaluations * (1 + len(GRID) + bisections if self.spec.control.mixing else 1)

    @property
    def trial_seconds(self) -> float:
        """A trial that runs to its last step, its device to itself."""
        return self.cost.start + self.cost.steps * self.cost.step + self.measurements * self.cost.evaluation

    def seconds(self, saved: float = 0.0) -> float:
        """The whole search; `saved`: the share of steps that pruning spares it."""
        return self._wall(self.trials, self.trial_seconds * (1 - saved))

    def _wall(self, count: int, trial: float) -> float:
        """Seconds of so many trials of `trial` seconds, which run side by side as the share allows."""
        return self.cost.load + max(trial, count * trial / self.share.parallel)

    def device_hours(self, saved: float = 0.0) -> float:
        """GPU-hours, or core-hours without a GPU."""
        device = max(1.0, self.share.gpu) if self.on_gpu else self.share.device
        return self.trials * self.trial_seconds * (1 - saved) * device / 3600

    @property
    def retrained(self) -> int:
        """Models that the audit at the end trains again, at the most."""
        asked = self.spec.finalists
        return 0 if asked is None else (len(asked.points) or min(asked.n, self.trials)) * asked.seeds

    @property
    def retraining_seconds(self) -> float:
        """All of them, without the attacks on them."""
        return self._wall(self.retrained, self.trial_seconds)

    @property
    def at_once_on_a_device(self) -> int:
        return max(1, int(1 / self.share.gpu + 1e-6)) if self.on_gpu else self.slots

    @property
    def fit_on_a_device(self) -> int:
        return self.cost.device_memory // max(1, self.cost.memory)

    @property
    def disk(self) -> int:
        """Bytes, at the most: each running trial keeps the adapters of its own front, the sweep those of its front,
        which more than one point a trial seldom is."""
        kept = min(self.slots, self.trials) * self.measurements + self.trials
        return kept * self.cost.adapter + self.trials * self.measurements * _ROW_BYTES

    @cached_property
    def warnings(self) -> list[str]:
        return warnings(self)


def make_plan(
    spec: Spec,
    results: Path,
    *,
    address: str | None = None,
    show_forget: bool = False,
    testbed_progress: Callable[[str, float], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Measure and count. The probe runs where trials would: on this machine, or on the cluster at `address`.

    `say` hears of each part that takes its time. Raises InputError and RayulError as a sweep would at its start.
    """
    say("loading ray and torch")
    from rayul.sweep.cluster import connected, share
    from rayul.sweep.driver_disk import served
    from rayul.sweep.packing import choose
    from rayul.sweep.reference import measure_trial_cost
    from rayul.sweep.tracking import check_installed
    from rayul.testbed import with_testbed
    from rayul.unlearn.cost import rendered
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.model import load_tokenizer
    from rayul.unlearn.task import check_needs

    check_installed(spec.tracking)
    ready = with_testbed(spec, testbed_progress)
    sets = load_sets(ready.data)
    check_needs(ready, sets)
    tokenizer = load_tokenizer(ready.model)
    shown = {key: rows for key, rows in sets.items() if show_forget or key != "forget"}
    probed = heaviest(ready)
    with connected(address) as remote, served(results, ready, remote=remote) as disk:
        packing = choose(ready, sets, disk, None)
        mine = share(ready.resources, packing.slots)
        say("measuring three steps and two evaluations")
        cost = measure_trial_cost(ready.at(probed), sets, mine, disk)
    combinations, continuous = size(spec)
    return Plan(
        spec=spec,
        results=results,
        combinations=combinations,
        continuous=continuous,
        rows={key: len(rows) for key, rows in sets.items()},
        samples={key: rendered(tokenizer, ready.model.template, _spread(rows)) for key, rows in shown.items()},
        probed=probed,
        cost=cost,
        share=mine,
        saved=saved_by_pruning(spec, results),
        disk_free=shutil.disk_usage(_existing(results)).free,
    )


def _spread(rows: Any) -> list[Any]:
    return [rows[math.floor(i * len(rows) / SAMPLES)] for i in range(min(SAMPLES, len(rows)))]


def _existing(folder: Path) -> Path:
    return next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
