"""Numbers and counts as people read them: in the terminal, the report, the model card."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Protocol


class HasMetrics(Protocol):
    """What has metrics with standard errors, by "<set>.<metric>": an evaluation, an attack's scores."""

    @property
    def metrics(self) -> Mapping[str, float]: ...

    @property
    def stderr(self) -> Mapping[str, float]: ...


def number(value: float | None) -> str:
    """Four significant digits; "–" for what is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def percent(fraction: float | None) -> str:
    """0.917 -> "91.7%"; "–" for what is not known."""
    return "–" if fraction is None or not math.isfinite(fraction) else f"{fraction:.1%}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:,.1f} h"


def plural(count: int, noun: str) -> str:
    """1 -> "1 trial", 1200 -> "1,200 trials"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def measured(evaluation: HasMetrics, metric: str) -> str:
    """The value with its standard error, both to the error's second digit: "0.412 ± 0.031"; and "3.9e-16 ± 2.0e-16"
    where all of it is below a hundred-thousandth."""
    value, error = evaluation.metrics.get(metric, math.nan), evaluation.stderr.get(metric, math.nan)
    if not (math.isfinite(value) and 0 < error < math.inf):
        return number(value)
    if max(abs(value), error) < 1e-5:
        return f"{value:.1e} ± {error:.1e}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def one_digit(error: float) -> str:
    """A standard error to its first digit: "0.03", "60"."""
    return f"{float(f'{error:.1g}'):g}"


def printable(text: str) -> str:
    """The text with what a terminal would obey written as an escape: control characters but for line ends and tabs,
    and characters that turn the direction of writing around ("\\x1b", "\\u202e")."""
    return "".join(_escaped(c) if _is_obeyed(c) else c for c in text)


def _is_obeyed(character: str) -> bool:
    if character in "\n\t":
        return False
    directions = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in directions


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def first_line(error: BaseException) -> str:
    """Of what an error says, or its kind where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def clock(seconds: float) -> str:
    """75 -> "1:15", 4000 -> "1:06:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
