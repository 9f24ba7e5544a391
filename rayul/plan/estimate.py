"""What a sweep takes: times, memory and disk, from the cost of one trial and what the cluster has."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayul.plan.history import Saved
from rayul.spec import Spec, known_limits

if TYPE_CHECKING:  # `rayul --help` imports this module, and neither torch nor Ray
    from rayul.sweep.cluster import Allocation
    from rayul.unlearn.cost import Cost

FRONT = 10
"""Points of a front, about: those of the sweeps in results/ have 2 to 10."""

CALIBRATED = 0.45
"""Of the further evaluations that calibration may ask for, about the share that it does ask for: 0.38 over the 3,899
calibrations in results/methods, 0.49 over the 24 with three targets in results/smollm2."""

_ROW_BYTES = 1500
"""Of one evaluation in the journal, in the tables and in the report together, as measured on the testbed."""


@dataclass(frozen=True)
class Estimate:
    """Times are upper bounds unless they are called usual: every trial costs what the most expensive one costs that the
    space allows, and trials that share a GPU gain nothing by it. Usual ones differ in how often calibration measures.
    """

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
    allocation: Allocation
    saved: Saved | None
    disk_free: int
    boundary: str = ""
    """The tokens at both ends of an answer."""
    text_notices: tuple[str, ...] = ()
    """What to know about the texts of a chat template."""
    row_notices: tuple[str, ...] = ()
    """What to know about the rows."""
    groups: dict[str, int] = field(default_factory=dict)
    """Number of groups by set."""
    certificate: tuple[str, ...] = ()
    """What can be certified, in sentences."""

    @property
    def on_gpu(self) -> bool:
        return self.allocation.gpu > 0

    @property
    def slots(self) -> int:
        return self.allocation.slots

    @property
    def trials(self) -> int:
        asked = self.spec.search
        return min(asked.trials, self.combinations) if asked.traits.grid else asked.trials

    @property
    def steering(self) -> list[str]:
        """The metrics that objectives and known limits read, as "<set>.<metric>"."""
        return list(
            dict.fromkeys([*self.spec.objectives, *(limit.metric for limit in known_limits(self.spec.criteria))])
        )

    @property
    def measurements(self) -> int:
        """Passes over the evaluated rows in one trial, at the most: calibration tries several mixings a time."""
        return self.cost.evaluations * (1 + self._further_mixings)

    @property
    def usual_measurements(self) -> float:
        return self.cost.evaluations * (1 + CALIBRATED * self._further_mixings)

    @property
    def _further_mixings(self) -> int:
        """That calibration tries beside 1, at the most."""
        from rayul.unlearn.calibrate import BISECTIONS, GRID

        return len(GRID) + BISECTIONS * max(1, len(self.spec.targets)) if self.spec.control.mixing else 0

    @property
    def trial_seconds(self) -> float:
        """A trial that runs to its last step, its device to itself."""
        return self._trial(self.measurements)

    @property
    def usual_trial_seconds(self) -> float:
        return self._trial(self.usual_measurements)

    def _trial(self, measurements: float) -> float:
        return self.cost.start + self.cost.steps * self.cost.step + measurements * self.cost.evaluation

    def seconds(self, saved: float = 0.0) -> float:
        """The whole search; `saved`: the share of steps that pruning spares it."""
        return self._wall(self.trials, self.trial_seconds * (1 - saved))

    def usual_seconds(self, saved: float = 0.0) -> float:
        return self._wall(self.trials, self.usual_trial_seconds * (1 - saved))

    def _wall(self, count: int, trial: float) -> float:
        """Seconds that `count` trials of `trial` seconds take, which run side by side as the allocation allows."""
        return self.cost.load + max(trial, count * trial / self.allocation.parallel)

    def device_hours(self, saved: float = 0.0) -> float:
        """GPU-hours, or core-hours without a GPU."""
        device = max(1.0, self.allocation.gpu) if self.on_gpu else self.allocation.device
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
    def ending_seconds(self) -> float:
        """What comes before the trials and after them, on one device: the references, the points of the front that are
        loaded and measured again, and the walk of each certified point along its dial."""
        from rayul.pareto.certificate import DIAL

        points = min(FRONT, self.trials)
        references = 1 + (self.spec.oracle is not None)
        certified = min(self.spec.certified_points, points)
        return (
            self.cost.load + (references + points + certified) * self.cost.final + certified * DIAL * self.cost.certify
        )

    @property
    def at_once_on_a_device(self) -> int:
        return max(1, int(1 / self.allocation.gpu + 1e-6)) if self.on_gpu else self.slots

    @property
    def models_on_a_device(self) -> int:
        """One for each pack, or for each trial where there are none. Without GPUs the device is the machine."""
        return math.ceil(self.at_once_on_a_device / self.allocation.pack)

    @property
    def further_memory(self) -> int:
        """Bytes that a further trial of a pack takes."""
        return max(1, self.cost.memory - self.cost.held)

    @property
    def memory_of_a_device(self) -> int:
        """Bytes that the trials on it take, each at its peak."""
        models = self.models_on_a_device
        return models * self.cost.memory + (self.at_once_on_a_device - models) * self.further_memory

    @property
    def fit_on_a_device(self) -> int:
        """Trials."""
        alone, share = max(1, self.cost.memory), self.cost.device_memory // self.models_on_a_device
        if self.allocation.pack == 1 or share < alone:
            return self.cost.device_memory // alone
        return self.models_on_a_device * (1 + (share - alone) // self.further_memory)

    @property
    def disk(self) -> int:
        """Bytes, at the most: each running trial keeps the adapters (or whole models) of its own front, the sweep those
        of its front, which more than one point a trial seldom is, and the audit those that it trains again."""
        kept = min(self.slots, self.trials) * self.measurements + self.trials + self.retrained
        return kept * self.cost.saved + self.trials * self.measurements * _ROW_BYTES
