"""Every attack by name. To add one: a function in its own file, its row here and in `rayul/spec/finalists.py`."""

from __future__ import annotations

from collections.abc import Callable

from rayul.unlearn.attacks.jailbreak import jailbreak
from rayul.unlearn.attacks.logit_lens import logit_lens
from rayul.unlearn.attacks.noise import noise
from rayul.unlearn.attacks.paraphrase import paraphrase
from rayul.unlearn.attacks.quantise import quantise
from rayul.unlearn.attacks.relearn import relearn
from rayul.unlearn.attacks.target import Attempts, Target

ATTACKS: dict[str, Callable[[Target], Attempts]] = {
    "relearn": relearn,
    "jailbreak": jailbreak,
    "paraphrase": paraphrase,
    "noise": noise,
    "logit_lens": logit_lens,
    "quantise": quantise,
}
