"""The word "testbed" in a spec, turned into the folders it stands for."""

from __future__ import annotations

from typing import Any

from rayul.spec import TESTBED, FolderData, Spec
from rayul.testbed.build import Progress
from rayul.testbed.cache import ensure_testbed


def with_testbed(spec: Spec, progress: Progress | None = None) -> Spec:
    """The spec with the embedded testbed's model, data and oracle in place of its name; built on first use."""
    model, data = spec.model.path == TESTBED, isinstance(spec.data, FolderData) and spec.data.folder == TESTBED
    oracle = spec.oracle is not None and spec.oracle.path == TESTBED
    if not (model or data or oracle):
        return spec
    place = ensure_testbed(progress)
    update: dict[str, Any] = {}
    if data:
        update["data"] = FolderData(folder=str(place))
    if model:
        update["model"] = spec.model.model_copy(update={"path": str(place / "model")})
    if oracle or (model and data and spec.oracle is None):
        update["oracle"] = (spec.oracle or spec.model).model_copy(update={"path": str(place / "oracle")})
    return spec.model_copy(update=update)
