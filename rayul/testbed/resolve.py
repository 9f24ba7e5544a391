"""The word "testbed" in a spec, turned into the folders it stands for, and model folders into their full paths."""

from __future__ import annotations

from typing import Any

from rayul.spec import TESTBED, FolderData, Model, Spec
from rayul.spec.data import find
from rayul.testbed.build import Progress
from rayul.testbed.cache import ensure_testbed


def with_testbed(spec: Spec, progress: Progress | None = None) -> Spec:
    """The spec with the embedded testbed's model, data and oracle in place of its name, built on first use, and model
    folders by their full path: a trial's current folder is not the driver's (Tune gives each its own)."""
    update: dict[str, Any] = {"model": _absolute(spec.model), "oracle": spec.oracle and _absolute(spec.oracle)}
    spec = spec.model_copy(update=update)
    model, data = spec.model.path == TESTBED, isinstance(spec.data, FolderData) and spec.data.folder == TESTBED
    oracle = spec.oracle is not None and spec.oracle.path == TESTBED
    if not (model or data or oracle):
        return spec
    place = ensure_testbed(progress)
    update = {}
    if data:
        update["data"] = FolderData(folder=str(place))
    if model:
        update["model"] = spec.model.model_copy(update={"path": str(place / "model")})
    if oracle or (model and data and spec.oracle is None):
        update["oracle"] = (spec.oracle or spec.model).model_copy(update={"path": str(place / "oracle")})
    return spec.model_copy(update=update)


def _absolute(model: Model) -> Model:
    folder = find(model.path)
    if model.path == TESTBED or folder is None:
        return model
    return model.model_copy(update={"path": str(folder.resolve())})
