"""The note beside a saved point of the front: what it scored when it was loaded again. With it, it is not measured
again by a sweep that goes on after a kill."""

from __future__ import annotations

import json
from hashlib import file_digest, sha256
from pathlib import Path

from rayul.files import write_json
from rayul.records import Evaluation, to_json
from rayul.records.recall import RECALL, Recall, write_recall
from rayul.records.text_note import NOTE, text_note
from rayul.spec import Spec
from rayul.unlearn.export import TOLERANCE, largest_difference
from rayul.unlearn.measured import Measurement


def write_note(place: Path, point: Evaluation, measurement: Measurement, recall: Recall, spec: Spec) -> float:
    """Write rayul.json and recall.json into the folder of a point; returns the largest difference of a metric to its
    record."""
    found = measurement.measured
    worst = largest_difference(found, point.metrics)
    report = {k: m for k, m in found.items() if k not in point.metrics}
    note = {
        "evaluation": json.loads(to_json(point)),
        "report_metrics": {k: m.value for k, m in report.items()},
        "report_stderr": {k: m.stderr for k, m in report.items()},
        "report_notes": list(measurement.notes),
        "verified": worst <= TOLERANCE,
        "largest_difference": worst,
        "sha256": hash_of(place),
        "samples": spec.report.samples or 0,
    }
    write_recall(place, recall)
    write_json(place / NOTE, note | text_note(spec.model))  # the last: it says that all of this is done
    return worst


def noted_difference(place: Path, point: Evaluation, samples: int) -> float | None:
    """The largest difference that an earlier run noted, where its note is of this evaluation, of the weights that are
    there and of as many samples; None where there is no such note, and the point is to be measured."""
    try:
        note = json.loads((place / NOTE).read_bytes())
        noted = (note["evaluation"], note["samples"], note["sha256"])
        same = noted == (json.loads(to_json(point)), samples, hash_of(place)) and (place / RECALL).exists()
        return float(note["largest_difference"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):  # no whole note: it is written anew
        return None


def complaint(place: Path, difference: float) -> str:
    """What is wrong with a point whose metrics differ from its record, or ""."""
    return (
        f"{place.name}: reloaded, a metric differs by {difference:.2g} from its record"
        if (difference > TOLERANCE)
        else ""
    )


def hash_of(place: Path) -> str:
    """The SHA-256 of a saved point: names and content of its weights and configuration."""
    digest = sha256()
    for path in sorted(place.iterdir()):
        if path.suffix == ".safetensors" or path.name in ("adapter_config.json", "config.json"):
            with open(path, "rb") as file:
                digest.update(f"{path.name}\0{file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
