"""A spec as it runs: the word "testbed" turned into the folders it stands for, GGUF files into converted folders, model
folders into their full paths, and the day that a chat template is told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rayul.spec import TESTBED, FolderData, Model, Spec
from rayul.spec.source import find
from rayul.testbed.cache import ensure_testbed
from rayul.testbed.processes import Progress
from rayul.unlearn.gguf import plain_model


def with_testbed(spec: Spec, progress: Progress | None = None, began: datetime | None = None) -> Spec:
    """The spec with the embedded testbed's model, data and oracle in place of its name, built on first use, models in
    GGUF files as converted folders, and model folders by their full path: a trial's current folder is not the driver's
    (Tune gives each its own).

    began: when the sweep began; None for now. An oracle of which the spec does not say how it reads rows reads them as
    the model does.
    """
    model = dated(spec.model, began)
    update: dict[str, Any] = {"model": _absolute(plain_model(model, progress))}
    if spec.oracle is not None:
        own = {name: value for name, value in spec.oracle.text.items() if value}
        text = {"date": model.date} | own if own.keys() - {"date"} else model.text | own
        update["oracle"] = _absolute(plain_model(spec.oracle.model_copy(update=text), progress))
    target, data = spec.model.path == TESTBED, isinstance(spec.data, FolderData) and spec.data.folder == TESTBED
    update["report"] = spec.report.sampling(fiction=data)
    spec = spec.model_copy(update=update)
    oracle = spec.oracle is not None and spec.oracle.path == TESTBED
    if not (target or data or oracle):
        return spec
    place = ensure_testbed(progress)
    update = {}
    if data:
        update["data"] = FolderData(folder=str(place))
    if target:
        update["model"] = spec.model.model_copy(update={"path": str(place / "model")})
    if oracle or (target and data and spec.oracle is None):
        update["oracle"] = (spec.oracle or spec.model).model_copy(update={"path": str(place / "oracle")})
    return spec.model_copy(update=update)


def dated(model: Model, began: datetime | None) -> Model:
    """The model with the day on which its sweep began (None: today) as its `date`, where it has none of its own: every
    process, and every later command on the sweep, then renders a chat template with the same day."""
    day = (began or datetime.now(UTC)).astimezone(UTC).date().isoformat()
    return model.model_copy(update={"date": model.date or day})


def _absolute(model: Model) -> Model:
    folder = find(model.path)
    if model.path == TESTBED or folder is None:
        return model
    return model.model_copy(update={"path": str(folder.resolve())})
