"""rayul: Ray-distributed hyper-parameter sweeps for LLM unlearning under control.

    from rayul import load_spec, run_sweep, load_results

Each name is imported when it is first used: reading results needs neither ray nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayul.report.results import Results, load_results
    from rayul.spec import Spec, load_spec
    from rayul.sweep.run import run_sweep

__version__ = "0.1.0"
__all__ = ["Results", "Spec", "__version__", "load_results", "load_spec", "run_sweep"]

_HOMES = {
    "Results": "rayul.report.results",
    "Spec": "rayul.spec",
    "load_results": "rayul.report.results",
    "load_spec": "rayul.spec",
    "run_sweep": "rayul.sweep.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rayul' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
