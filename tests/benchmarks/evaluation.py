"""What the cheap metrics cost beside the forward passes they are made from, on the testbed's three sets.

    python tests/benchmarks/evaluation.py

Interleaved, one thread, medians of 15; the bare forward runs the same batches and projects the same positions.
"""

from __future__ import annotations

import statistics
import time


def main() -> None:
    import torch

    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.forward import forward
    from rayul.unlearn.task import load_task
    from rayul.unlearn.tokens import collate

    torch.set_num_threads(1)
    spec = with_testbed(
        from_plain({"name": "cost", "model": "testbed", "data": "testbed", "method": "ga", "training": {"lr": 1e-3}})
    )
    task = load_task(spec, load_sets(spec.data))
    examples = [e for rows in task.evaluated().values() for e in rows]
    examples.sort(key=lambda e: len(e.ids))
    batches = [collate(examples[i : i + 64], task.pad) for i in range(0, len(examples), 64)]

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                forward(task.base, batch)

    def full() -> None:
        evaluate(task.base, task, spec.evaluate.metrics, 64)

    times: dict[str, list[float]] = {"bare": [], "full": []}
    for i in range(16):
        for name, function in (("bare", bare), ("full", full)):
            started = time.perf_counter()
            function()
            if i:
                times[name].append(time.perf_counter() - started)
    bare_seconds, full_seconds = (statistics.median(times[name]) for name in ("bare", "full"))
    ratios = [f / b for f, b in zip(times["full"], times["bare"], strict=True)]
    print(f"{len(examples)} rows: forwards {bare_seconds:.3f} s, evaluation {full_seconds:.3f} s")
    print(f"ratio {statistics.median(ratios):.2f} (target: at most 1.5)")


if __name__ == "__main__":
    main()
