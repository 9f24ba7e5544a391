"""All trials of one device: a pack of K slots, or, where memory ran out, smaller packs that take turns."""

from __future__ import annotations

import gc
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch

from rayul.records import Ending, Evaluation
from rayul.spec import Spec
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack.pack import Pack
from rayul.unlearn.pack.packable import Shape
from rayul.unlearn.pack.state import SlotState
from rayul.unlearn.task import Task
from rayul.unlearn.trial import is_out_of_memory


class Report(NamedTuple):
    """What a trial says at an evaluation: its rows, itself as it is there, on the CPU, and at its end how it ended.
    Where it failed there are no rows and no state."""

    trial_id: str
    rows: list[Evaluation]
    state: SlotState | None
    ending: Ending | None


class Packs:
    """Trials by their ids; which pack and slot one is in is nobody's business.

    Memory that runs out kills no trial: each pack is split into two of half the slots, down to one slot, whose batch
    then takes more forwards. Only a trial that does not fit alone, row by row, fails. splits: times that each pack is
    split before the first trial comes.
    """

    def __init__(self, task: Task, spec: Spec, shape: Shape, splits: int = 0) -> None:
        self.task, self.spec, self.shape = task, spec, shape
        self.splits: list[Shape] = []
        """Shapes that did not fit."""
        shapes = [shape]
        for _ in range(splits):
            shapes = [part for one in shapes for part in _parts(one, one.smaller() or one)]
        self.packs = [Pack(task, spec, one) for one in shapes]

    @property
    def row_size(self) -> int:
        """P, the numbers of one trial."""
        return self.packs[0].layout.size

    def join(self, job: TrialJob, state: SlotState | None = None) -> None:
        """As `Pack.join`, into the emptiest pack."""
        max(self.packs, key=lambda pack: len(pack.free)).join(job, state)

    def leave(self, trial_id: str) -> None:
        """Free the trial's slot, if it has one."""
        for pack, slot in self._places(trial_id):
            pack.leave(slot)

    def turn(self, waiting: Collection[str] = ()) -> list[Report] | None:
        """One turn of each pack that has a trial to train; None where none has. waiting: trials that take no step."""
        reports, idle = [], True
        for pack in list(self.packs):
            held = {k for k, slot in pack.slots.items() if slot.job.trial_id in waiting}
            if not pack.running(held):
                continue
            idle, events = False, []
            smaller = None
            try:
                events = pack.turn(held)
            except Exception as error:
                smaller = pack.shape.smaller() if is_out_of_memory(error) else None
                if smaller is None:
                    events = [pack.fail(k, error) for k in pack.running(held)]
            if smaller is not None:  # not before the error is gone: its frames hold what did not fit
                self._split(pack, smaller)
            reports += [self._report(pack, k, rows) for k, rows in events]
        return None if idle else reports

    def save_adapter(self, report: Report, evaluation: Evaluation, folder: Path) -> None:
        """Write the adapter of a reported evaluation as a PEFT folder."""
        assert report.state is not None
        trial = self.spec.at(evaluation.params)
        self.packs[0].write_adapter(trial, report.state.values, evaluation.mixing, folder)

    def _report(self, pack: Pack, k: int, rows: list[Evaluation]) -> Report:
        slot = pack.slots[k]
        return Report(slot.shared.trial_id, rows, pack.state(k).cpu() if rows else None, slot.ending)

    def _places(self, trial_id: str) -> list[tuple[Pack, int]]:
        return [(p, k) for p in self.packs for k, slot in p.slots.items() if slot.job.trial_id == trial_id]

    def _split(self, pack: Pack, smaller: Shape) -> None:
        self.splits.append(pack.shape)
        trials = [(slot.job, pack.state(k).cpu()) for k, slot in pack.slots.items() if not slot.ended]
        shapes = _parts(pack.shape, smaller)
        self.packs.remove(pack)
        del pack
        if self.task.device.type == "cuda":
            gc.collect()  # its graphs know the base that knows them
            torch.cuda.empty_cache()
        new = [Pack(self.task, self.spec, one) for one in shapes]
        self.packs += new
        for job, state in trials:
            max(new, key=lambda one: len(one.free)).join(job, state)


def _parts(shape: Shape, smaller: Shape) -> list[Shape]:
    """The smaller packs that take the place of one."""
    return [smaller] * -(-shape.slots // smaller.slots)
