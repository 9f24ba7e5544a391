"""Results as a sweep leaves them, of two real trials that are trained here: the second with mixing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayul.records import BASELINE, Evaluation, to_json
from rayul.records.manifest import Manifest, write_manifest
from rayul.spec.spec import from_plain


def write_results(place: Path, model: Path | str | dict[str, Any], data: Path, **sections: Any) -> Path:
    """place: the folder to write, named as the sweep. sections: of the spec, beside or instead of those here."""
    import torch

    from rayul.spec import dump_yaml
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.export import measure_reported
    from rayul.unlearn.task import load_task
    from rayul.unlearn.train import train
    from rayul.unlearn.trial import reference_evaluation
    from rayul.unlearn.update import attach

    torch.set_num_threads(1)
    plain: dict[str, Any] = {
        "name": "tiny",
        "model": str(model) if isinstance(model, Path) else model,
        "data": str(data),
        "method": "ga",
        "training": {"lr": {"choice": [5e-3, 1e-2]}, "batch_size": 4, "steps": 4, "evaluate_every": 2},
        "objectives": {"forget.prob": "minimize", "retain.prob": "maximize"},
        "control": [{"metric": "retain.prob", "at_least": "10% of baseline"}],
    }
    spec = from_plain(plain | sections)
    task = load_task(spec, load_sets(spec.data))
    baseline = reference_evaluation(task, spec, BASELINE)
    place.mkdir(parents=True)
    (place / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    write_manifest(place, Manifest(command="rayul sweep tiny.yaml", versions={"rayul": "0.1.0"}))
    rows = [baseline]

    for number, lr in enumerate((5e-3, 1e-2)):
        mixing = (1.0, 0.5)[number]
        trial = spec.at({"training.lr": lr})
        update = attach(task, trial, number)
        for step in train(update, task, trial, number):
            if not step:
                continue
            with update.mixed(mixing):
                measured = measure_reported(task, trial, update.model)
            searched = {key: m for key, m in measured.items() if not key.startswith("retain_report.")}
            row = Evaluation(
                f"{number:04d}",
                step,
                mixing,
                seed=number,
                params={"training.lr": lr},
                metrics={key: m.value for key, m in searched.items()},
                stderr={key: m.stderr for key, m in searched.items()},
                rows={key.split(".")[0]: m.rows for key, m in searched.items()},
            )
            rows.append(row)
            update.save(mixing, place / "adapters" / f"{row.trial_id}-{row.step}-{row.mixing:g}")
        update.detach()
    (place / "evaluations.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    return place
