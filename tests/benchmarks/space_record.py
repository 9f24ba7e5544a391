"""Every configuration of search_space_wide.yaml trained to its end, in packs: the second space of the search benchmark.

    nice -n 19 python tests/benchmarks/space_record.py --work DIR [--packs N]
    nice -n 19 python tests/benchmarks/space_record.py --work DIR --best 40 --seeds 6   (once all runs are there)

Trains in one process and one thread, without Ray. The order of the runs is random with a fixed seed, so what is there
after any number of packs is a random sample of the space. Every fifth configuration is trained with a second seed, and
with --best so many of these with SEEDS seeds: those of which one of the two runs forgets most at 90% of what the other
authors had. A file DIR/pack-NNNN.parquet for each pack of 8 runs, written when the pack is done. Each call ends by
adding the packs of DIR to results/search/space.parquet; a pack that is in either place is not run again.

At each evaluation a run is scored on 5 rows of each forget author, and where they have moved on 2 rows of each of the
60 authors that judge what is kept (retain, retain_certify and retain_report of the testbed). Where it has forgotten
something and lost something also along DIAL, as far as what it keeps is of interest. Between these coefficients a
reader takes straight lines, and at 0 the baseline. A row of the table is one run, step and coefficient:

| column | meaning |
| --- | --- |
| number, replicate | its place in the random order, and which of its seeds (0, 1, ...); number -1 is the baseline |
| params | the configuration as JSON; seed: of its training |
| step, mixing | |
| sums | sum of es over the rows of each author, in thousandths: first the forget authors, then the others, who have the
baseline's where the forget authors have not moved |
| train_seconds, score_seconds | CPU seconds of the run's training up to here, and of this row's scoring |

The schema's metadata has the names of the authors and the rows of each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SPEC = Path(__file__).with_name("search_space_wide.yaml")
TABLE = Path(__file__).parents[2] / "results" / "search" / "space.parquet"
SLOTS = 8
TWICE = 5
"""One configuration in so many is trained with a second seed."""
KEEPING = ("retain", "retain_certify", "retain_report")
ROWS = {"forget": 5} | dict.fromkeys(KEEPING, 2)
"""Rows of an author that are scored, by set."""

DIAL = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8)
MIDDLE = 3
"""Of the dial: scored first, and then up and down from it."""
UNTOUCHED = 0.99
"""Share of the baseline's forget.es above which the other authors are not scored."""
UNMOVED = 0.95
"""Share above which a run has forgotten nothing: its dial is not scored."""
WHOLE = 0.995
"""Share of what the other authors had above which nothing is lost: a smaller coefficient is not scored."""
RUINED = 0.8
"""Share below which a larger one is not."""

MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}
"""As in packs.py: without them the activations of every step go back to the system."""


class Run(NamedTuple):
    number: int
    replicate: int
    params: dict[str, Any]

    @property
    def seed(self) -> int:
        return 10_000 * self.replicate + self.number


def runs(spec: Any) -> list[Run]:
    """All of them in the order in which they are recorded; a second seed follows its configuration's first."""
    from rayul.sweep.search.samplers import grid

    cells = list(grid(spec))
    random.Random(0).shuffle(cells)
    return [Run(i, j, params) for i, params in enumerate(cells) for j in range(1 + (i % TWICE == 0))]


def further(order: list[Run], table: Path, best: int, seeds: int) -> list[Run]:
    """Runs with further seeds of the configurations that were trained with two and are the best by either of them."""
    found = pq.read_table(table)
    authors = json.loads(found.schema.metadata[b"authors"])
    forgets = np.array([one.startswith("forget/") for one in authors])
    sums = np.array(found["sums"].to_pylist(), dtype=float)
    number, replicate = found["number"].to_numpy(), found["replicate"].to_numpy()
    share = sums / sums[number < 0]
    gone, kept = 1 - share[:, forgets].mean(1), share[:, ~forgets].mean(1)
    twice = np.isin(number, [run.number for run in order if run.replicate]) & (replicate < 2) & (kept >= 0.9)
    ranked = dict.fromkeys(number[np.flatnonzero(twice)[np.argsort(-gone[twice], kind="stable")]].tolist())
    params = {run.number: run.params for run in order}
    return [Run(one, seed, params[one]) for one in list(ranked)[:best] for seed in range(2, seeds)]


class Recorder:
    """One base model, and the authors' rows that are scored."""

    def __init__(self) -> None:
        import torch

        from rayul.spec import load_spec
        from rayul.testbed import with_testbed
        from rayul.unlearn.data import load_sets
        from rayul.unlearn.pack import Pack, Shape
        from rayul.unlearn.pack.scorer import Scorer
        from rayul.unlearn.task import load_task

        torch.set_num_threads(1)
        self.spec = with_testbed(load_spec(SPEC))
        self.task = load_task(self.spec, load_sets(self.spec.data))
        self.pack = Pack(self.task, self.spec, Shape.of(self.spec, SLOTS, cpu=True))
        examples, self.author = [], []
        for name, count in ROWS.items():
            taken: dict[str, int] = {}
            for row, example in zip(self.task.sets[name], self.task.examples[name], strict=True):
                if taken.setdefault(row.group, 0) < count:
                    taken[row.group] += 1
                    examples.append(example)
                    self.author.append(f"{name}/{row.group}")
        self.authors = list(dict.fromkeys(self.author))
        self.groups = np.array([self.authors.index(one) for one in self.author])
        self.forgets = np.array([one.startswith("forget/") for one in self.authors])
        self.rows = np.bincount(self.groups)
        first = sum(one.startswith("forget/") for one in self.author)
        self.scorers = [
            Scorer(self.pack.base, self.pack.layout, some, self.task.pad, 32, merging=True)
            for some in (examples[:first], examples[first:])
        ]
        self.baseline = np.zeros(len(self.authors))
        self.baseline = self.scored(self.pack.parameters.values[:1], 0.0)[0]

    def scored(self, row: Any, scale: float) -> tuple[Any, float]:
        """Sums of es by author of one adapter, and the CPU seconds that it took."""
        from rayul.unlearn.evaluate import per_row

        began = time.process_time()
        forget, kept = self.scorers
        sums = self.baseline.copy()
        forgets = int(self.forgets.sum())
        es = per_row("es", forget.score(row, [scale])[0])
        sums[:forgets] = np.bincount(self.groups[: len(es)], weights=es)
        if self.share(sums, self.forgets) <= UNTOUCHED:
            es = per_row("es", kept.score(row, [scale])[0])
            sums[forgets:] = np.bincount(self.groups[-len(es) :] - forgets, weights=es)
        return sums, time.process_time() - began

    def evaluated(self, slot: int) -> Iterator[tuple[float, Any, float]]:
        """(mixing, sums, seconds) of a slot as it is now, mixing 1 first."""
        row, scale = self.pack.parameters.values[slot : slot + 1], self.pack.slots[slot].scale
        sums, seconds = self.scored(row, scale)
        yield 1.0, sums, seconds
        if self.share(sums, self.forgets) > UNMOVED or self.kept(sums) > WHOLE:
            return
        middle = 0.0
        for a in DIAL[MIDDLE:]:
            sums, seconds = self.scored(row, a * scale)
            yield a, sums, seconds
            middle = middle or self.kept(sums)
            if self.kept(sums) < RUINED:
                break
        for a in DIAL[:MIDDLE][::-1] if middle <= WHOLE else ():
            sums, seconds = self.scored(row, a * scale)
            yield a, sums, seconds
            if self.kept(sums) > WHOLE:
                break

    def kept(self, sums: Any) -> float:
        return self.share(sums, ~self.forgets)

    def share(self, sums: Any, which: Any) -> float:
        whole = float(self.baseline[which].sum())
        return float(sums[which].sum()) / whole if whole else 0.0

    def record(self, some: list[Run]) -> list[dict[str, Any]]:
        """Train these together and return their rows; those of a run that fails end before it did."""
        from rayul.unlearn.job import TrialJob

        rows = []
        slots = {}
        for run in some:
            spec = self.spec.at(run.params)
            slots[self.pack.join(TrialJob(f"{run.number}/{run.replicate}", spec, run.seed, run.params, {}))] = run
        weights = {k: self.pack.slots[k].spec.training.batch_size for k in slots}
        spent = dict.fromkeys(slots, 0.0)
        for step in range(1, self.spec.training.steps + 1):
            running = self.pack.running()
            began = time.process_time()
            self.pack.step(running)
            took = time.process_time() - began
            for k in running:
                spent[k] += took * weights[k] / sum(weights[n] for n in running)
            if step % self.spec.training.evaluate_every:
                continue
            for k in self.pack.running():
                for mixing, sums, seconds in self.evaluated(k):
                    rows.append(self.row(slots[k], step, mixing, sums, spent[k], seconds))
        for k in slots:
            if self.pack.slots[k].ended:
                print(f"{slots[k].params} {self.pack.slots[k].ending}", file=sys.stderr, flush=True)
            self.pack.leave(k)
        return rows

    def row(
        self, run: Run, step: int, mixing: float, sums: Any, train_seconds: float, score_seconds: float
    ) -> dict[str, Any]:
        return {
            "number": run.number,
            "replicate": run.replicate,
            "params": json.dumps(run.params, sort_keys=True),
            "seed": run.seed,
            "step": step,
            "mixing": mixing,
            "sums": np.rint(1000 * sums).astype(int).tolist(),
            "train_seconds": round(train_seconds, 3),
            "score_seconds": round(score_seconds, 3),
        }

    def write(self, rows: list[dict[str, Any]], path: Path) -> None:
        """Whole or not at all."""
        kinds = [("number", pa.int16()), ("replicate", pa.int8()), ("params", pa.string()), ("seed", pa.int32())]
        kinds += [("step", pa.int16()), ("mixing", pa.float32()), ("sums", pa.list_(pa.int16()))]
        kinds += [("train_seconds", pa.float32()), ("score_seconds", pa.float32())]
        about = {"authors": json.dumps(self.authors), "rows": json.dumps(self.rows.tolist())}
        table = pa.Table.from_pylist(rows, schema=pa.schema(kinds, metadata=about))
        pq.write_table(table, path.with_suffix(".partial"), compression="zstd")
        path.with_suffix(".partial").replace(path)


def join(work: Path, table: Path) -> int:
    """Add the packs of a work folder to the table; returns how many runs it has."""
    paths = [*([table] if table.exists() else []), *sorted(work.glob("pack-*.parquet"))]
    found = pa.concat_tables([pq.read_table(path) for path in paths])
    rows = {(r["number"], r["replicate"], r["step"], r["mixing"]): r for r in found.to_pylist()}
    table.parent.mkdir(parents=True, exist_ok=True)
    whole = pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=found.schema)
    pq.write_table(whole, table, compression="zstd", compression_level=19)
    return len({key[:2] for key in rows}) - 1


def recorded(table: Path) -> set[tuple[int, int]]:
    """(number, replicate) of the runs in a table."""
    if not table.exists():
        return set()
    columns = pq.read_table(table, columns=["number", "replicate"])
    return set(zip(columns["number"].to_pylist(), columns["replicate"].to_pylist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--packs", type=int, default=None, help="how many of all packs; 0 only joins what is there")
    parser.add_argument("--best", type=int, default=0, help="so many configurations are trained with further seeds")
    parser.add_argument("--seeds", type=int, default=6, help="of the best")
    parser.add_argument("--out", type=Path, default=TABLE)
    asked = parser.parse_args()
    if not MALLOC.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)
    asked.work.mkdir(parents=True, exist_ok=True)
    if asked.packs != 0:
        recorder = Recorder()
        order = runs(recorder.spec)
        name = "pack"
        if asked.best:
            order, name = further(order, asked.out, asked.best, asked.seeds), "pack-best"
        packs = [order[i : i + SLOTS] for i in range(0, len(order), SLOTS)][: asked.packs]
        known = recorded(asked.out)
        first = asked.work / "pack-base.parquet"
        if not first.exists():
            recorder.write([recorder.row(Run(-1, 0, {}), 0, 0.0, recorder.baseline, 0.0, 0.0)], first)
        for i, some in enumerate(packs):
            path = asked.work / f"{name}-{i:04d}.parquet"
            if path.exists() or {(run.number, run.replicate) for run in some} <= known:
                continue
            began, wall = time.process_time(), time.perf_counter()
            rows = recorder.record(some)
            recorder.write(rows, path)
            cpu, wall = time.process_time() - began, time.perf_counter() - wall
            per_run = f"{cpu / len(some):.1f} s of CPU and {wall / len(some):.1f} s a run"
            print(f"pack {i + 1} of {len(packs)}: {len(rows)} rows, {per_run}", flush=True)
    print(f"{join(asked.work, asked.out)} runs in {asked.out}")


if __name__ == "__main__":
    main()
