"""What other people call our columns, and the lines of a spec that say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SYNONYMS: dict[str, tuple[str, ...]] = {
    "question": ("question", "prompt", "instruction", "query", "input", "q", "user"),
    "answer": ("answer", "response", "output", "completion", "target", "a", "assistant"),
    "group": ("group", "author", "subject", "entity", "person"),
    "text": ("text", "passage", "document", "content"),
    "messages": ("messages", "conversation", "conversations"),
}
"""The likeliest first. Capitals do not matter."""


def likely_columns(names: Iterable[str]) -> dict[str, str]:
    """Of a file's names of columns, those that probably mean ours: {ours: theirs}."""
    lower = {name.lower(): name for name in reversed(list(names))}
    return {
        ours: next(lower[word] for word in words if word in lower)
        for ours, words in SYNONYMS.items()
        if any(word in lower for word in words)
    }


def lines_that_map(names: Iterable[Any], mapped: Mapping[Any, str | None]) -> str:
    """The lines of a spec that say which of a file's columns are question and answer. mapped: as the spec has it."""
    there = [str(name) for name in names]
    likely = likely_columns(there)
    lines = ["data:", "  columns:"]
    for ours in ("question", "answer"):
        now = mapped.get(ours, ours)
        lines.append(f"    {ours}: {now if now in there else likely.get(ours, '<its name in the file>')}")
    return "\n".join(f"    {line}" for line in lines)
