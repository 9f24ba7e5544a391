"""A plan: everything about a sweep that can be known before it runs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayul.plan.certificate import certificate_lines, groups_of, kept_in
from rayul.plan.estimate import Estimate
from rayul.plan.history import saved_by_pruning, spread_seen
from rayul.plan.rows import row_lines
from rayul.plan.warnings import warnings
from rayul.spec import RESERVE, Spec, check_certifiable, heaviest, is_certify_set, is_forget_set

if TYPE_CHECKING:
    from rayul.unlearn.data import Row, Sets

SAMPLES = 3


@dataclass(frozen=True)
class Plan(Estimate):
    """An estimate, and what looks wrong about it."""

    @cached_property
    def warnings(self) -> list[str]:
        return warnings(self)


def make_plan(
    spec: Spec,
    results: Path,
    *,
    address: str | None = None,
    show_forget: bool = False,
    samples: int | None = None,
    testbed_progress: Callable[[str, float | None], None] | None = None,
    say: Callable[[str], None] = lambda part: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Measure and count. The probe runs where trials would: on this machine, or on the cluster at `address`.

    `say` hears of each part that takes its time, `warn` of a cluster that everyone may use. Raises InputError and
    RayulError as a sweep would at its start.
    """
    say("loading Ray and torch")
    from rayul.sweep.cluster import allocate
    from rayul.sweep.connection import connected, connecting
    from rayul.sweep.driver_disk import served
    from rayul.sweep.packs.packing import choose_packing
    from rayul.sweep.reference import measure_trial_cost
    from rayul.sweep.search.samplers import check_sampler
    from rayul.sweep.tracking import check_installed
    from rayul.testbed import with_testbed
    from rayul.unlearn.chunks import chunks, load_rows
    from rayul.unlearn.cost import boundary, rendered
    from rayul.unlearn.data import group_numbers, reserved
    from rayul.unlearn.model import load_tokenizer
    from rayul.unlearn.task import check_needs
    from rayul.unlearn.template import Template, text_notices

    check_installed(spec.tracking)
    ready = with_testbed(spec, testbed_progress)
    say("reading the rows")
    sets = load_rows(ready)
    check_needs(ready, sets)
    kept = kept_in(sets)
    check_certifiable(ready, groups_of(kept))
    check_sampler(ready)
    tokenizer, template = load_tokenizer(ready.model), Template.of(ready.model)
    notices = tuple(text_notices(tokenizer, template))
    count = min(SAMPLES, ready.report.samples or 0) if samples is None else samples
    shown = {
        key: _spread(rows, count or SAMPLES)
        for key, rows in sets.items()
        if not is_certify_set(key) and (show_forget if is_forget_set(key) else count)
    }
    asked = [shown[key][0] for key in ("forget", "retain", *shown) if key in shown]
    # Of a chunk all tokens are trained on, so that its halves are no prompt and answer.
    example = next((row for row in asked if row.chunk is None), _made_up(sets))
    probed = heaviest(ready)
    say(connecting(address))
    with connected(address, warn) as remote, served(results, ready, remote=remote) as disk:
        say("choosing how many trials share a device")
        packing = choose_packing(ready, sets, disk, None)
        allocation = allocate(ready.resources, packing.slots)
        awaited = f"waiting for {allocation.awaits} to join the cluster, which is then measured"
        say(awaited if allocation.awaits else "starting a process that measures")
        cost = measure_trial_cost(ready.at(probed), sets, allocation, disk, say)
        say("ending Ray")
    aside = tuple(one for row in reserved(ready.data) for one in chunks(row, tokenizer))
    listed = sets | {RESERVE: aside} if aside else sets
    combinations, continuous = spec.size
    baseline = {key: measured.value for key, measured in cost.baseline.items()}
    return Plan(
        spec=spec,
        results=results,
        combinations=combinations,
        continuous=continuous,
        rows={key: len(rows) for key, rows in listed.items()},
        groups={key: len(set(group_numbers(rows))) for key, rows in listed.items()},
        samples={key: rendered(tokenizer, template, rows) for key, rows in shown.items()},
        boundary="" if example is None else boundary(tokenizer, template, example),
        text_notices=notices,
        row_notices=tuple(row_lines(sets)),
        probed=probed,
        cost=cost,
        allocation=allocation,
        saved=saved_by_pruning(spec, results),
        certificate=tuple(certificate_lines(spec, kept, baseline, partial(spread_seen, spec, results))),
        disk_free=shutil.disk_usage(_existing(results)).free,
    )


def _spread(rows: Any, count: int) -> list[Any]:
    return [rows[math.floor(i * len(rows) / count)] for i in range(min(count, len(rows)))]


def _made_up(sets: Sets) -> Row | None:
    """A row to show the template with, where no real one may be printed; None where the rows have another form."""
    from rayul.unlearn.data import Row

    first = sets["forget"][0]
    plain = not (first.text or first.choices or first.history)
    return Row("What is asked?", "What is answered.") if plain else None


def _existing(folder: Path) -> Path:
    return next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
