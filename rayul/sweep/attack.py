"""Certified weights under attack, on as many devices as there are: the lines of certified/attacks.jsonl."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ray
import torch

from rayul.errors import RayulError
from rayul.pace import Work
from rayul.progress import ProgressBar
from rayul.records import adapter_name, holds_model
from rayul.records.attacked import FINE_TUNE, Attacked, attack_journal
from rayul.records.certificate import certified_folder
from rayul.records.folder import SweepRecords
from rayul.report.attacked import untried
from rayul.report.certified import certified
from rayul.spec import Attack, Spec
from rayul.sweep.cluster import Allocation
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.losses import as_they_come
from rayul.unlearn.attacks.certified import Try, Victim, tries
from rayul.unlearn.attacks.recovery import has_rows
from rayul.unlearn.attacks.target import Target
from rayul.unlearn.data import Sets
from rayul.unlearn.model import load_model
from rayul.unlearn.task import load_task, spaced
from rayul.unlearn.template import Template
from rayul.unlearn.update.saved import standalone
from rayul.words import plural

Say = Callable[[str], None]
Weights = Mapping[str, Mapping[str, bytes]]
"""Of certified folders by name, their files: for nodes that do not see the results folder."""


def left_to_try(results: SweepRecords, wanted: Attack) -> list[Try]:
    """On the certified points that forgot most, every attack that has no line yet."""
    cells = {row.key for row in results.attacked}
    others = {(row.model, row.attack) for row in results.attacked}
    return [
        one
        for model in list(dict.fromkeys(adapter_name(point.e) for point in certified(results)))[: wanted.points]
        for one in tries(model, wanted)
        if (one.model, one.attack) not in others
        or (one.cell and (one.model, one.attack, one.variant(wanted.budget)) not in cells)
    ]


def attack_certified(
    spec: Spec,
    sets: Sets,
    results: SweepRecords,
    wanted: Attack,
    allocation: Allocation,
    disk: DriverDisk,
    say: Say,
    bar: ProgressBar,
) -> None:
    """Try what is left to try, a line for each. What a lost process was at is tried again by the command's next run.

    Raises RayulError where certified weights are missing.
    """
    left = left_to_try(results, wanted)
    if not left:
        return
    places = {
        adapter_name(point.e): certified_folder(results.folder.absolute(), point.e) for point in certified(results)
    }
    places = {name: places[name] for name in dict.fromkeys(one.model for one in left)}
    if absent := [place for place in places.values() if not holds_model(place)]:
        raise RayulError(f"{absent[0]}: the certified weights are missing", "restore them, and run rayul certify again")
    say(f"attacking {', '.join(places)}: {plural(len(left), 'attack')}")
    sent = None
    if disk.server is not None:
        sent = ray.put(
            {name: {f.name: f.read_bytes() for f in p.iterdir() if f.is_file()} for name, p in places.items()}
        )
    processes = max(1, min(int(allocation.parallel), len(left)))
    task = ray.remote(
        num_cpus=allocation.cpu * allocation.pack,
        num_gpus=min(1.0, allocation.gpu * allocation.pack),
        num_returns="streaming",
        max_retries=2,
    )(attack_here)
    fixed = (allocation.threads, spec, sets, disk, places, wanted)
    # Each process takes every so-manieth, so that all have some of the long ones.
    streams = [task.remote(*fixed, left[i::processes], sent) for i in range(processes)]
    journal = attack_journal(results.folder)
    work = work_of(left, sets)
    bar.update(f"attacking: 0 of {len(left)} tried", 0.0)
    for rows in as_they_come(streams):
        journal.append(*rows)
        work.add(_kind(rows[0].attack, rows[0].variant), 1, sum(row.seconds for row in rows))
        bar.update(f"attacking: {work.count:.0f} of {len(left)} tried", work.share)
        if measured := [row for row in rows if row.es]:
            say(_line(max(measured, key=lambda row: max(row.es))))
    for line in untried([row for row in journal if row.model in places]):
        say(f"not tried: {line}")


def work_of(left: Sequence[Try], sets: Sets) -> Work:
    """What is left to try, by kinds that take equally long. Fine-tuning on rows that the spec does not have takes no
    time, and comes last: counted like the rest it made the time left several times too long."""
    kinds = {one: _kind(one.attack, "" if one.cell is None else one.cell.words) for one in left}
    absent = [one for one in left if one.cell is not None and not has_rows(sets, one.cell.rows)]
    return Work(Counter(kinds.values()), dict.fromkeys((kinds[one] for one in absent), 0.0))


def _kind(attack: str, variant: str) -> str:
    """Fine-tuning by the rows and what it trains; any other attack by its name."""
    return " ".join([attack, *variant.split(", ")[:2]]) if attack == FINE_TUNE else attack


def _line(row: Attacked) -> str:
    """What a person sees of an attack as it comes."""
    head = row.attack + (f" ({row.variant})" if row.variant else "")
    return f"{head}: forget.es {row.before:.3f} -> {max(row.es):.3f} ({row.seconds:.1f} s)"


def attack_here(
    threads: int,
    spec: Spec,
    sets: Sets,
    disk: DriverDisk,
    places: Mapping[str, Path],
    wanted: Attack,
    left: Sequence[Try],
    sent: Weights | None,
) -> Iterator[list[Attacked]]:
    """The lines of these attacks, attack by attack, in a process that loads the model."""
    torch.set_num_threads(threads)
    spec = disk.with_models(spec)
    task = load_task(spec, sets)
    base = task.base
    if spec.model.quantize is not None:  # adapters cannot be merged into 4 bits
        base = load_model(spec.model.model_copy(update={"quantize": None}))[0]
    rows = tuple(spaced(list(task.sets["forget"]), spec.evaluate.max_rows))
    known = None
    for name in dict.fromkeys(one.model for one in left):
        with tempfile.TemporaryDirectory(prefix="rayul-") as temporary:
            model = standalone(base, _here(places[name], sent[name] if sent else None, disk, Path(temporary)))
        target = Target(
            model, task.tokenizer, {**task.sets, "forget": rows}, Template.of(spec.model), spec.evaluate.batch_size
        )
        known = known or target.score(target.examples, base)
        victim = Victim(task, target, base, known)
        for one in left:
            if one.model == name:
                yield victim.attacked(one, wanted)


def _here(place: Path, files: Mapping[str, bytes] | None, disk: DriverDisk, temporary: Path) -> Path:
    """Where this node has a certified folder."""
    if files is None or disk.is_seen:
        return place
    for name, content in files.items():
        (temporary / name).write_bytes(content)
    return temporary
