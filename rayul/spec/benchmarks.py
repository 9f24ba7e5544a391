"""The numbers of published benchmarks, under their own names, as metrics of the probes of the shipped specs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Numbers = Mapping[str, tuple[str, ...]]
"""By the benchmark's name of a number the metrics that it is the mean of, over the rows of all their sets together."""

PERCENT = ("verbmem_f", "knowmem_f", "knowmem_r")
"""Numbers that their benchmark gives in percent, and rayul as shares."""

_MUSE: Numbers = {
    "verbmem_f": ("verbmem_forget.rouge",),
    "privleak": ("privleak_forget.privleak",),
    "knowmem_f": ("knowmem_forget.rouge",),
    "knowmem_r": ("knowmem_retain.rouge",),
}

BENCHMARKS: Mapping[str, Numbers] = MappingProxyType(
    {
        "muse-news": _MUSE,
        "muse-books": _MUSE,
        "wmdp-bio": {"wmdp_bio": ("wmdp_forget.choice",), "mmlu": ("mmlu.choice",)},
        "wmdp-cyber": {"wmdp_cyber": ("wmdp_forget.choice",), "mmlu": ("mmlu.choice",)},
        "rwku": {
            "level_1_rouge_l_r": ("level1_forget.rouge",),
            "level_2_rouge_l_r": ("level2_forget.rouge",),
            "level_3_rouge_l_r": ("level3_forget.rouge", "level3_suffix_forget.rouge", "level3_context_forget.rouge"),
            "neighbor_level_1_rouge_l_r": ("level1_retain.rouge",),
            "neighbor_level_2_rouge_l_r": ("level2_retain.rouge",),
            "mmlu": ("mmlu.choice",),
            "bbh_em": ("bbh.exact_match",),
            "truthfulqa_mc1": ("truthfulqa.mc1",),
            "triviaqa_em": ("triviaqa.exact_match",),
            "triviaqa_f1": ("triviaqa.token_f1",),
            "fluency_entropy": ("fluency.fluency",),
        },
    }
)
"""By the name of the shipped spec."""
