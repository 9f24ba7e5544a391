"""The one place where code of the user's own runs: a function of a source text that the spec carries."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from rayul.errors import InputError
from rayul.spec import Evaluate, source_hash
from rayul.spec.custom import split
from rayul.unlearn.forward import TokenScores
from rayul.unlearn.metrics import RowMetric


def own_function(name: str, code: Mapping[str, str]) -> Callable[..., Any]:
    """The function that "./my_loss.py:fn" names in `code` (source text by path). Its module is made once a process.

    Raises InputError when the module itself cannot be run.
    """
    path, function = split(name)
    source = code[path]
    # The text decides, not the path: a worker that outlives an edit of the file must not take the old module.
    module_name = f"rayul_own_{source_hash(source)[:16]}"
    module = sys.modules.get(module_name)
    if module is None:
        module = ModuleType(module_name)
        module.__file__ = path
        # Registered as an import does it, for dataclasses and pickle; its lines too, for tracebacks.
        sys.modules[module_name] = module
        linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
        try:
            exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 (what records/trusted.py lets through)
        except Exception as error:
            del sys.modules[module_name]
            raise InputError(
                f"{path} cannot be run: {type(error).__name__}: {error}",
                "workers have the file's text and the installed packages, not what lies beside it",
            ) from error
    found: Callable[..., Any] = getattr(module, function)
    return found


def own_metrics(evaluate: Evaluate) -> dict[str, RowMetric]:
    """The custom metrics that a spec names, by the name that stands in "<set>.<metric>".

    What they return is looked at: InputError where that is not one number, and for what they raise.
    """
    return {name: _checked(entry, own_function(entry, evaluate.code)) for name, entry in evaluate.own.items()}


def _checked(entry: str, function: Callable[..., Any]) -> RowMetric:
    def metric(scores: TokenScores) -> float:
        try:
            value = np.asarray(function(_read_only_scores(scores)))
        except Exception as error:
            raise InputError(
                f"{entry} failed on a row of {len(scores.logp)} answer tokens: {type(error).__name__}: {error}",
                "it is given logp [L] and match [L] of one row, L >= 1, as arrays that are not to be changed",
            ) from error
        if value.ndim or value.dtype.kind not in "bif":
            what = f"an array of shape {list(value.shape)}" if value.ndim else f"a {type(value.item()).__name__}"
            raise InputError(
                f"{entry} returned {what}", "a metric is one number per row; rayul takes the mean over rows"
            )
        return float(value)

    return metric


def _read_only_scores(scores: TokenScores) -> TokenScores:
    logp, match, options, right = scores
    return TokenScores(_read_only(logp), _read_only(match), _read_only(options), right)


def _read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The other metrics of the row see the same memory."""
    view = array.view()
    view.flags.writeable = False
    return view
