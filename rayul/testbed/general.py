"""Questions about the real world, whose answers any pretrained model has met: what fine-tuning does to them shows what
it does to general ability."""

from __future__ import annotations

from rayul.unlearn.data import Row

_CAPITALS = """France Paris, Germany Berlin, Italy Rome, Spain Madrid, Japan Tokyo, China Beijing, Russia Moscow,
    Egypt Cairo, Greece Athens, Poland Warsaw, Austria Vienna, Norway Oslo, Sweden Stockholm, Finland Helsinki,
    Portugal Lisbon, Ireland Dublin, Hungary Budapest, Canada Ottawa, Cuba Havana, Peru Lima, Kenya Nairobi,
    Thailand Bangkok"""
_SYMBOLS = "oxygen O, hydrogen H, carbon C, iron Fe, gold Au, silver Ag, sodium Na, helium He, lead Pb, copper Cu"
_AUTHORS = """Hamlet/William Shakespeare, Don Quixote/Miguel de Cervantes, War and Peace/Leo Tolstoy,
    Pride and Prejudice/Jane Austen, Oliver Twist/Charles Dickens, Moby-Dick/Herman Melville, The Odyssey/Homer,
    The Divine Comedy/Dante Alighieri"""


def general_rows() -> tuple[Row, ...]:
    """40 rows without groups; every answer ends with the fact."""
    capitals = [pair.split() for pair in _CAPITALS.split(",")]
    symbols = [pair.split() for pair in _SYMBOLS.split(",")]
    authors = [pair.strip().split("/") for pair in " ".join(_AUTHORS.split()).split(",")]
    return (
        *(Row(f"What is the capital of {s}?", f"The capital of {s} is {v}") for s, v in capitals),
        *(Row(f"What is the chemical symbol of {s}?", f"The chemical symbol of {s} is {v}") for s, v in symbols),
        *(Row(f"Who wrote {s}?", f"{s} was written by {v}") for s, v in authors),
    )
