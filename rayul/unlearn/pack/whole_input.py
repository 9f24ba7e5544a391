"""Whether every adapted module sees the whole batch, line by line: packs rely on it to give each trial its adapter.

An expert of a mixture sees the tokens that were routed to it, from all lines together. Where their number happens to
divide evenly, a token would silently get another trial's adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rayul.errors import InputError

LINES, TOKENS = 2, 5
NOISE = 0.02
"""Of the largest input: what bfloat16 and sums in another order may change; other tokens change far more."""


@torch.no_grad()
def check_whole_input(base: Any, modules: Sequence[str]) -> None:
    """Raises InputError for a module that is not called once per forward with all tokens, in the order of the lines.

    Two forwards of two lines that differ in the second line only: each module must see LINES * TOKENS inputs, those of
    the first line the same in both.
    """
    vocabulary, device = base.get_input_embeddings().num_embeddings, base.get_input_embeddings().weight.device
    first = torch.arange(LINES * TOKENS, device=device).view(LINES, TOKENS) % vocabulary
    second = first.clone()
    second[1] = (second[1] + vocabulary // 2) % vocabulary
    seen = [_inputs(base, modules, ids) for ids in (first, second)]
    for name in modules:
        calls = [inputs[name] for inputs in seen]
        whole = all(len(found) == 1 and found[0].numel() == LINES * TOKENS * found[0].shape[-1] for found in calls)
        if whole:
            before, after = (found[0].reshape(LINES, -1) for found in calls)
            whole = bool((before[0] - after[0]).abs().max() <= NOISE * before[0].abs().max())
        if not whole:
            raise InputError(
                f"{name} sees only some of the tokens (an expert of a mixture?), and packs cannot tell whose they are",
                "set resources.packs: false, or leave it out of lora.target_modules",
            )


def _inputs(base: Any, modules: Sequence[str], ids: Tensor) -> dict[str, list[Tensor]]:
    """What each module is called with in one forward."""
    found: dict[str, list[Tensor]] = {name: [] for name in modules}

    def note(name: str) -> Any:
        return lambda module, arguments: found[name].append(arguments[0].detach().float())

    hooks = [base.get_submodule(name).register_forward_pre_hook(note(name)) for name in modules]
    try:
        base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found
