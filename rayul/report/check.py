"""The verdict of one health check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["good", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One question, its verdict, and the verdict as a sentence with its numbers."""

    title: str
    verdict: Verdict
    sentence: str
