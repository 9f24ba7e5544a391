"""The licence of a base model, as its model card states it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

FREE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "unlicense")
"""Identifiers of the Hub for licences under which changed weights may be passed on without further conditions than to
name where they come from."""

FROM_NOTHING = "trained-from-nothing"
"""What the card of a model says that `rayul testbed` trained without a base: nobody else's licence applies to it."""


def licence(model: str) -> str | None:
    """The identifier in the front matter of a folder's README.md, or of a Hub id's; None where it names none, or the
    Hub cannot be asked."""
    folder = Path(model).expanduser()
    try:
        card = ModelCard.load(folder / "README.md" if folder.is_dir() else model)
    except Exception:  # no card, no network, no such repository, a card that is no YAML: it is not known
        return None
    stated = card.data.to_dict()
    if stated.get("license_name") == FROM_NOTHING:
        return FROM_NOTHING
    found = stated.get("license")
    return found.lower() if isinstance(found, str) else None


def may_be_passed_on(model: str) -> bool:
    """Whether weights made from this model may be passed on, as far as its card tells."""
    return licence(model) in (*FREE, FROM_NOTHING)
