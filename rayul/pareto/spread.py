"""Which adapters of a front get a certificate: a few, spread over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayul.records import Evaluation


def spread(front: Sequence[Evaluation], count: int) -> list[Evaluation]:
    """At most `count` points of a front, evenly spaced in its order, both ends among them (of one only the first,
    which forgot most). Mixings of one trial and step are one adapter, of which the largest is taken: its dial passes
    the others."""
    adapters: dict[tuple[str, int], Evaluation] = {}
    for e in front:
        key = e.trial_id, e.step
        adapters[key] = max(adapters.get(key, e), e, key=lambda one: one.mixing)
    found = list(adapters.values())
    places = np.unique(np.round(np.linspace(0, len(found) - 1, min(count, len(found)))).astype(int))
    return [found[i] for i in places]
