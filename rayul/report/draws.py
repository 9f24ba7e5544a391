"""What a comparison of sweeps owes to chance and to shared draws: a sentence for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from rayul.records.folder import SweepRecords
from rayul.spec import Spec
from rayul.words import plural


def draws_told(
    sweeps: Sequence[SweepRecords], specs: Sequence[Spec], labels: Sequence[str], seeds: Sequence[Sequence[int]]
) -> Iterator[str]:
    """seeds: numbers of the sweeps that differ in their seed alone."""
    yield from _random(sweeps, specs, labels)
    yield from _shared_seeds(specs, labels, seeds)
    yield from _certify_rows(sweeps, labels)


def _random(sweeps: Sequence[SweepRecords], specs: Sequence[Spec], labels: Sequence[str]) -> Iterator[str]:
    """Sweeps that ended before their sampler proposed anything."""
    by_sampler: dict[str, list[str]] = {}
    for sweep, spec, label in zip(sweeps, specs, labels, strict=True):
        if sweep.trials and spec.is_random(len(sweep.trials)):
            why = f"{spec.search.sampler} proposes settings only after {plural(spec.search.startup_trials, 'trial')}"
            by_sampler.setdefault(why, []).append(label)
    for why, those in by_sampler.items():
        yield f"All trials of {', '.join(those)} were drawn at random: {why} (search.startup_trials)."


def _shared_seeds(specs: Sequence[Spec], labels: Sequence[str], seeds: Sequence[Sequence[int]]) -> Iterator[str]:
    """Runs of one recipe whose trials train with the same seeds: trial n trains with search.seed + n."""
    close = []
    for group in seeds:
        ordered = sorted(specs[i].search.seed for i in group)
        if any(after - before < specs[group[0]].search.trials for before, after in pairwise(ordered)):
            close.append(", ".join(labels[i] for i in group))
    if close:
        yield (
            f"Seeds of one recipe share training seeds ({'; '.join(close)}), since trial n trains with search.seed + "
            "n: they are not independent. Take search.seed further apart than there are trials: 0, 1000, 2000, ..."
        )


def _certify_rows(sweeps: Sequence[SweepRecords], labels: Sequence[str]) -> Iterator[str]:
    """Sweeps that read the same certify rows."""
    readers: dict[tuple[str, str], dict[str, None]] = {}
    for sweep, label in zip(sweeps, labels, strict=True):
        for reading in sweep.certificates.readings:
            for one in reading.read:
                readers.setdefault((one.certify, one.sha256), {})[label] = None
    for (name, _), those in readers.items():
        if len(those) > 1:
            yield (
                f"{len(those)} certificates read the same rows of {name} ({', '.join(those)}): the confidence of each "
                "is for it alone. It does not hold for all of them together, nor for the best of them."
            )
