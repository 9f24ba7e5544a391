"""The device actor: one process per GPU (or per share of the cores) that trains a pack, whoever its trials are."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rayul.errors import RayulError
from rayul.records import CHECKPOINTS, Evaluation, trial_id
from rayul.records.certificate import Reading
from rayul.records.recall import Found
from rayul.spec import Spec
from rayul.sweep.deadline import arm
from rayul.sweep.dials import walk_dials
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.packs import DeviceBroken, Moved
from rayul.sweep.packs.worker import KeptAdapters, load_here, writing
from rayul.sweep.reference import reference_row, verified
from rayul.sweep.result import TrialResult
from rayul.unlearn.data import Sets
from rayul.unlearn.job import TrialJob, shared_row
from rayul.unlearn.pack import Packs, Report, Shape
from rayul.unlearn.pack.state import SlotState
from rayul.unlearn.recall import Recaller
from rayul.unlearn.trial import failure


class Seat:
    """A trial on the device. has_slot: or it still waits for one. left: it must not come back. ready: reports that its
    client has not asked for; given: the one that the client has now. moving: it stops at its next report; halted: it
    has stopped there."""

    def __init__(self, number: int, params: dict[str, Any], kept: KeptAdapters) -> None:
        self.number, self.params, self.kept = number, params, kept
        self.has_slot = False
        self.ready: deque[Report] = deque()
        self.given: Report | None = None
        self.saved = time.monotonic()
        self.left = self.moving = self.halted = False


class Device:
    """Trials join, ask for their next result again and again, and leave; a thread trains all of them meanwhile. Its
    life, and what becomes of its trials, is the table in `rayul/sweep/packs/__init__.py`.

    A trial trains on while Tune judges its result, up to the next one: its slot would idle otherwise. What it computed
    in vain when the verdict is to stop it is never seen.

    shape: of the pack. checkpoint_every: seconds between two checkpoints of a trial, which its next incarnation goes
    on from where the results folder is seen. splits: of its pack, from the start (`Packs`).
    """

    def __init__(
        self,
        spec: Spec,
        sets: Sets,
        disk: DriverDisk,
        shape: Shape,
        threads: int,
        checkpoint_every: float,
        splits: int = 0,
    ) -> None:
        torch.set_num_threads(threads)
        self.spec, self.sets, self.threads, self.checkpoint_every = spec, sets, threads, checkpoint_every
        # Only the training thread touches the packs; the others leave word here, under the lock.
        self.changed = threading.Condition()
        self.base_in_use = threading.Lock()
        """Held by whoever calls the base model, or changes it."""
        self.seats: dict[int, Seat] = {}
        self.joining: list[Seat] = []
        self.leaving: list[Seat] = []
        self.news = False
        self.error: Exception | None = None
        try:
            self.disk, self.folder = disk, disk.adapters()
            self.packs = Packs(load_here(spec, sets, disk), spec, shape, splits)
        except RayulError as error:  # for whoever asks: an actor that dies of it tells no type
            self.error = error
        except Exception as error:  # such as memory that a former device has not given back yet
            self.error = _broken(error)
        else:
            threading.Thread(target=self._train, daemon=True).start()

    # --- before and after the trials ---------------------------------------------------------------------------------

    def measure(self, name: str) -> Evaluation:
        """`reference.reference_row` in this process."""
        with self._between_steps():
            return reference_row(self.spec, self.sets, self.disk, name, self.packs.task)

    def verify(self, points: Sequence[Evaluation]) -> list[str]:
        """`reference.verified` in this process: what is wrong with points, where something is."""
        with self._between_steps():
            return list(filter(None, verified(self.spec, self.sets, self.disk, points, self._recaller)))

    def walk(
        self, reading: Reading, points: Sequence[Evaluation], baseline: Mapping[str, float], part: slice
    ) -> tuple[Found, ...]:
        """`dials.walk_dials` in this process."""
        with self._between_steps():
            task, recaller = self.packs.task, self._recaller
            return walk_dials(self.spec, self.sets, self.disk, reading, points, baseline, task, recaller, part)

    @cached_property
    def _recaller(self) -> Recaller:
        """Made once for the points of all questions: it measures the base."""
        return Recaller(self.packs.task, self.disk.with_models(self.spec))

    @contextmanager
    def _between_steps(self) -> Iterator[None]:
        """The base without adapters, in any thread."""
        self._check()
        torch.set_num_threads(self.threads)  # OpenMP counts by thread
        with self.base_in_use:
            yield
            if self.packs.task.device.type == "cuda":
                torch.cuda.empty_cache()  # an oracle was loaded

    # --- what clients and the broker call ----------------------------------------------------------------------------

    def join(self, number: int, params: dict[str, Any], baseline: Evaluation) -> None:
        """Seat a trial as soon as a slot is free. One that is here already, and be it that it still waits for a slot,
        starts again: its client died. Raises RuntimeError where that happens to this one, or it leaves, while it
        waits."""
        with self.changed:
            self.leave(number)
            self._check()
            kept = KeptAdapters(self.spec, self.disk, self.folder, baseline)
            seat = self.seats[number] = Seat(number, params, kept)
            self._wait(seat, lambda: sum(s.has_slot for s in self.seats.values()) < self.packs.shape.slots)
            seat.has_slot = True
            self.joining.append(seat)
            self._notify()

    def next(self, number: int) -> TrialResult:
        """The trial's next result. Its last one is in the journal, then: Tune asks when its callbacks are done. Raises
        RuntimeError for a trial that is not here, or that leaves while it waits."""
        with self.changed:
            self._check()
            seat = self.seats.get(number)
        if seat is None:
            raise _gone(number)
        self._hand_over(seat)
        self._save_checkpoint(seat)
        with self.changed:
            self._wait(seat, lambda: bool(seat.ready))
            report = seat.given = seat.ready.popleft()
            self._notify()
        if report.state is not None:
            seat.kept.add(report.rows, partial(self.packs.save_adapter, report))
        return TrialResult(report.rows, report.ending)

    def move(self, number: int) -> None:
        """Let a trial stop at its next report, and its client hear `Moved` when it has taken that: nothing is computed
        twice. It stays where its state cannot be left for another device."""
        with self.changed:
            seat = self.seats.get(number)
            if seat is not None and self.disk.is_seen:
                seat.moving, seat.halted = True, bool(seat.ready)
                self._notify()

    def _hand_over(self, seat: Seat) -> None:
        with self.changed:
            state = None if seat.given is None else seat.given.state
            if not seat.halted or seat.ready or state is None:
                return
        self._save(seat, state)
        self.leave(seat.number)
        raise Moved(f"trial {seat.number} goes on on another device")

    def leave(self, number: int) -> None:
        """Free the trial's slot, or its place among those who wait for one, whatever it is doing."""
        with self.changed:
            seat = self.seats.pop(number, None)
            if seat is not None:
                seat.left = True
                self.leaving.append(seat)
                self._notify()

    def _notify(self) -> None:
        self.news = True
        self.changed.notify_all()

    def _wait(self, seat: Seat, until: Callable[[], bool]) -> None:
        self.changed.wait_for(lambda: self.error is not None or seat.left or until())
        self._check()
        if seat.left:
            raise _gone(seat.number)

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    # --- training ----------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        torch.set_num_threads(self.threads)  # OpenMP counts by thread
        training: dict[str, Seat] = {}
        limit = self.spec.search.trial_time_limit
        try:
            while True:
                with self.changed:
                    joining, leaving, self.joining, self.leaving = self.joining, self.leaving, [], []
                    self.news = False
                with self.base_in_use:
                    # A step that takes as long as a trial may hangs, and would hang for every trial to come.
                    arm(limit)
                    for seat in leaving:
                        if training.get(trial_id(seat.number)) is seat:
                            self.packs.leave(trial_id(seat.number))
                            del training[trial_id(seat.number)]
                    for seat in joining:
                        if not seat.left:
                            training[trial_id(seat.number)] = seat
                            self._admit(seat)
                    # Whose report is taken from here on is news.
                    waiting = {name for name, seat in training.items() if seat.ready or seat.halted}
                    reports = self.packs.turn(waiting)
                    arm(None)
                with self.changed:
                    for report in reports or ():
                        seat = training[report.trial_id]
                        seat.ready.append(report)
                        seat.halted = seat.moving
                    self.changed.notify_all()
                    if reports is None:
                        self.changed.wait_for(lambda: self.news)
        except Exception as error:  # for everyone who waits
            arm(None)
            with self.changed:
                self.error = _broken(error)
                self.changed.notify_all()

    def _admit(self, seat: Seat) -> None:
        try:
            job = TrialJob.of(self.spec, seat.number, seat.params, seat.kept.baseline.metrics)
            self.packs.join(job, self._checkpoint(seat.number))
        except Exception as error:  # any failure of one trial is its ending
            failed = failure(shared_row(self.spec, seat.number, seat.params), error)
            with self.changed:
                seat.ready.append(Report(failed.trial_id, [], None, failed))
                self.changed.notify_all()

    # --- what outlives the actor -------------------------------------------------------------------------------------

    def _path(self, number: int) -> Path:
        return self.folder / CHECKPOINTS / f"{trial_id(number)}.safetensors"

    def _save_checkpoint(self, seat: Seat) -> None:
        if seat.given is None or seat.given.state is None or time.monotonic() - seat.saved < self.checkpoint_every:
            return
        self._save(seat, seat.given.state)

    def _save(self, seat: Seat, state: SlotState) -> None:
        with writing(self._path(seat.number)):
            state.save(self._path(seat.number))
        seat.saved = time.monotonic()

    def _checkpoint(self, number: int) -> SlotState | None:
        path = self._path(number)
        try:
            state = SlotState.load(path)
        except (OSError, SafetensorError):  # there is none, or no whole one: from the start
            return None
        return state if state.values.numel() == self.packs.row_size else None


def _broken(error: Exception) -> DeviceBroken:
    broken = DeviceBroken(f"the device stopped: {type(error).__name__}: {error}")
    broken.__cause__ = error
    return broken


def _gone(number: int) -> RuntimeError:
    return RuntimeError(f"trial {number} is not on this device: it has ended, moved to another or joined again")
