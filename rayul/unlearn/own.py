"""The one place where code of the user's own runs: a function of a source text that the spec carries."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from rayul.errors import InputError
from rayul.spec import source_hash
from rayul.spec.custom import split


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
            exec(compile(source, path, "exec"), module.__dict__)
        except Exception as error:
            del sys.modules[module_name]
            raise InputError(
                f"{path} cannot be run: {type(error).__name__}: {error}",
                "workers have the file's text and the installed packages, not what lies beside it",
            ) from error
    found: Callable[..., Any] = getattr(module, function)
    return found
