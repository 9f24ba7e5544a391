"""The metrics and row sets a spec can name. A metric key is "<set>.<metric>", e.g. "retain.es"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import PlainValidator
from pydantic_core.core_schema import ValidationInfo

from rayul.spec.forms import Form, HasForm, one_of
from rayul.spec.problems import did_you_mean, expected, refuse, show


@dataclass(frozen=True)
class Metric:
    """What is known of a metric before it is measured; its function has the same name.

    direction_on_utility: which way is better on rows that are to be kept.
    needs: "forward": the one teacher-forced pass that every evaluation makes, function in `rayul/unlearn/metrics.py`.
    More than that, function in `rayul/unlearn/suite_metrics.py`: "passes" over paraphrases, wrong answers or holdout
    rows, "generate": generated answers, "oracle": passes over a model trained without the forget rows.
    mean_of_rows: whether it is the mean of a number per row, which its function gives; else of the set as a whole.
    only: the sets that it is measured on, where those are not all; then its function is given the other sets as well.
    on_forget: which way is better on forget rows: the "opposite" way, the "same" (signs of a broken model, which are
    bad everywhere), or neither, where a number is the goal: "0.5", or "0".
    bounded: whether every value lies in [0, 1]. lowest: below which no value lies.
    column: what it needs of a row beside question and answer; rows of a set that lack it are left out. "": nothing, or
    it is of whole sets alone.
    """

    direction_on_utility: Literal["higher", "lower"]
    summary: str
    needs: Literal["forward", "passes", "generate", "oracle"] = "forward"
    mean_of_rows: bool = True
    only: tuple[str, ...] = ()
    on_forget: Literal["opposite", "same", "0.5", "0"] = "opposite"
    bounded: bool = True
    lowest: float = 0.0
    column: str = ""

    def better_on(self, set_name: str) -> Literal["higher", "lower", "0.5", "0"]:
        """Which way is better on the rows of this set, or the number that is the goal there."""
        if not is_forget_set(set_name) or self.on_forget == "same":
            return self.direction_on_utility
        if self.on_forget in ("0.5", "0"):
            return self.on_forget
        return "lower" if self.direction_on_utility == "higher" else "higher"


ATTACKED = {
    "relearned": "forget rows after a few steps of fine-tuning on a tenth of them, the others judged",
    "quantised": "forget rows with the weights rounded to 8 and to 4 bits, the worse of the two",
}
"""What the forget rows are called where an evaluation measures them under an attack; see
`rayul/unlearn/attacks/steering.py`."""


def is_forget_set(name: str) -> bool:
    """Whether the rows of a set are to be forgotten: `forget`, also under an attack, and those of a probe. Those of any
    other are to be kept."""
    return name == "forget" or name in ATTACKED or name.endswith("_forget")


def certify_of(name: str) -> str:
    """The set whose rows certify the limits on this one: retain_certify of retain, mmlu_certify of a probe mmlu whose
    rows are split. The certificate alone reads them."""
    return f"{name}_certify"


def report_of(name: str) -> str:
    """The set whose rows the final report has beside this one: retain_report, mmlu_report. No decision uses them."""
    return f"{name}_report"


def is_certify_set(name: str) -> bool:
    return name.endswith("_certify")


def is_report_set(name: str) -> bool:
    return name.endswith("_report")


def searched_of(name: str) -> str:
    """The set that these rows are held back from; of a set that is read by the search, itself."""
    return name.removesuffix("_certify").removesuffix("_report")


def plainly(key: str) -> str:
    """A metric's key without an attack: forget.es of relearned.es, any other as it is."""
    name, dot, metric = key.partition(".")
    return f"forget{dot}{metric}" if name in ATTACKED else key


def is_forgetting(key: str) -> bool:
    """Whether a metric "<set>.<metric>" measures forgetting, and not utility."""
    return is_forget_set(key.partition(".")[0])


def _membership(summary: str) -> Metric:
    return Metric("higher", summary, "passes", mean_of_rows=False, only=("forget",), on_forget="0.5")


def _gap(name: str) -> Metric:
    summary = f"{name} minus the oracle's, in [-1, 1]; 0 is the goal"
    return Metric(
        "higher", summary, "oracle", mean_of_rows=False, only=("forget",), on_forget="0", bounded=False, lowest=-1.0
    )


WRONG = "perturbed_answer"
CHOICES = "choices"

METRICS: dict[str, Metric] = {
    "es": Metric("higher", "extraction strength in [0, 1]: the part of the answer that the model completes exactly"),
    "prob": Metric("higher", "probability in [0, 1]: the geometric mean of the answer tokens' probabilities"),
    "em": Metric(
        "higher", "exact memorisation in [0, 1]: the share of answer tokens that are the model's first choice"
    ),
    "ppl": Metric(
        "lower",
        "perplexity from 1: exp of the mean NLL of all answer tokens",
        mean_of_rows=False,
        bounded=False,
        lowest=1.0,
    ),
    "choice": Metric(
        "higher",
        "share of multiple-choice questions whose right option has the likeliest letter, in [0, 1]",
        column=CHOICES,
    ),
    "choice_text": Metric(
        "higher",
        "share of multiple-choice questions whose right option is the likeliest answer per character, in [0, 1]",
        "passes",
        column=CHOICES,
    ),
    "mc1": Metric(
        "higher",
        "share of multiple-choice questions whose right option is the likeliest answer to the bare question, in [0, 1]",
        "passes",
        column=CHOICES,
    ),
    "es_perturb": Metric(
        "higher", "extraction strength on the paraphrased question, in [0, 1]", "passes", column="paraphrased_question"
    ),
    "es_similar": Metric(
        "higher", "extraction strength, a continuation being similar (LCS over half of it) instead of exact", "generate"
    ),
    "prob_options": Metric(
        "higher", "p(answer) / (p(answer) + p of all wrong answers), in [0, 1]", "passes", column=WRONG
    ),
    "truth_ratio": Metric(
        "lower", "min(R, 1/R) in [0, 1]; 1: right and wrong answers are equally likely", "passes", column=WRONG
    ),
    "truthfulness": Metric(
        "higher", "max(0, 1 - R) in [0, 1]: the truth ratio as model utility counts it", "passes", column=WRONG
    ),
    "rouge": Metric(
        "higher",
        "ROUGE-L of the greedy answer, in [0, 1]: recall of stems, unless a probe asks for another",
        "generate",
    ),
    "exact_match": Metric(
        "higher", "share of greedy answers that are right but for case, punctuation and articles, in [0, 1]", "generate"
    ),
    "token_f1": Metric("higher", "F1 of the words of the greedy answer and of the right one, in [0, 1]", "generate"),
    "empty": Metric("lower", "share of empty answers, in [0, 1]", "generate", on_forget="same"),
    "repetition": Metric("lower", "share of repeated 4-grams within answers, in [0, 1]", "generate", on_forget="same"),
    "distinct": Metric(
        "higher",
        "share of distinct 2-grams of all answers, in [0, 1]; falls on collapse",
        "generate",
        mean_of_rows=False,
        on_forget="same",
    ),
    "fluency": Metric(
        "higher",
        "weighted entropy of an answer's 2-grams and 3-grams in bits, from 0; falls on loops",
        "generate",
        on_forget="same",
        bounded=False,
    ),
    "forget_quality": Metric(
        "lower",
        "p-value of a KS test against the oracle, in [0, 1]; high is good",
        "oracle",
        mean_of_rows=False,
        only=("forget",),
    ),
    "model_utility": Metric(
        "higher",
        "TOFU's harmonic mean, in [0, 1]",
        "generate",
        mean_of_rows=False,
        only=("retain", "retain_report"),
        column=WRONG,
    ),
    "mia_loss": _membership("AUC of forget rows against holdout by loss; the goal is the oracle's, without one 0.5"),
    "mia_zlib": _membership("the same by loss over zlib entropy"),
    "mia_min_k": _membership("the same by the least likely tokens"),
    "mia_min_k_pp": _membership("the same by the least likely tokens, standardised"),
    "mia_loss_gap": _gap("mia_loss"),
    "mia_zlib_gap": _gap("mia_zlib"),
    "mia_min_k_gap": _gap("mia_min_k"),
    "mia_min_k_pp_gap": _gap("mia_min_k_pp"),
    "privleak": Metric(
        "higher",
        "MUSE's privacy leakage in % of the oracle's AUC, from -100 (forget rows are recognised); 0 is the goal",
        "oracle",
        mean_of_rows=False,
        only=("forget",),
        on_forget="0",
        bounded=False,
        lowest=-100.0,
    ),
}
"""Every metric, in the order of tables. A metric is a row here and the function of its name, and nothing else."""

STEERING = tuple(name for name, metric in METRICS.items() if metric.needs == "forward")
"""What every evaluation can measure, and so what criteria and objectives may read."""

CHEAP = tuple(name for name in STEERING if not METRICS[name].column)
"""Those that every row has: what is measured where a spec does not say."""


def needs_oracle(names: Iterable[str]) -> bool:
    """Whether one of these metrics compares with the oracle; names as in `evaluate.final`."""
    return any(name in METRICS and METRICS[name].needs == "oracle" for name in names)


SETS = ("forget", "retain", "general", "retain_report", "retain_certify", "holdout")
"""Rows by purpose; `retain` is the retain-select set. Training rows (retain_train) are not measured, and
retain_certify is measured by `rayul certify` alone."""

_WHY_NOT = {
    "retain_report": "these rows are kept for the final report; a search that reads them would flatter itself",
    "retain_certify": "these rows are read once, for the certificate, which is worth nothing if a search read them too",
    "holdout": "no model was trained on these rows; only membership inference reads them",
}


def _why_not(name: str, probed: Iterable[str]) -> str:
    """Why a set steers nothing; "" where it may. probed: the sets of probes."""
    if searched_of(name) in probed and name not in probed:
        return _WHY_NOT["retain_certify" if is_certify_set(name) else "retain_report"]
    return _WHY_NOT.get(name, "")


SEARCH_SETS = tuple(name for name in SETS if name not in _WHY_NOT)
"""The sets of the data that criteria and objectives may read."""

RESERVE = "reserve"
"""Rows that are in no set: nothing reads them, so that a later request has some for its certificate."""

RESERVED = (*SETS, *ATTACKED, RESERVE, "retain_train", "idk", "real_authors", "world_facts")
"""Names that no set of a probe may have."""


OWN = "own_metrics"
"""Of the context of a validation: the names of the custom metrics that the spec measures, which its criteria and
objectives may name."""

PROBED = "probe_metrics"
"""Of the context of a validation: the metrics of each set of a probe, which criteria and objectives may name, too."""


def check_metric_key(key: Any, info: ValidationInfo) -> str:
    """A metric that criteria and objectives may name. Raises `refuse(...)`."""
    if not isinstance(key, str):
        raise expected("a metric such as retain.es", key)
    set_name, _, metric = key.partition(".")
    context = info.context or {}
    cheap, probed = (*STEERING, *context.get(OWN, ())), context.get(PROBED, {})
    if why := _why_not(set_name, probed):
        steers = "retain" if set_name == "holdout" else searched_of(set_name)
        raise refuse(f"{key} cannot steer the search: {why}", f"use {steers}.{metric or 'es'}")
    if (set_name in (*SEARCH_SETS, *ATTACKED) and metric in cheap) or metric in probed.get(set_name, ()):
        return key
    if set_name in probed and metric in (*METRICS, *cheap):
        raise refuse(f"{key} is not measured", f"add {metric} to the metrics of the probe")
    if set_name in SEARCH_SETS and metric in METRICS:
        raise refuse(f"{key} cannot steer the search: it needs more than one forward pass", _ONLY_CHEAP)
    sets = dict.fromkeys((*SEARCH_SETS, *ATTACKED), cheap) | probed
    known = [f"{s}.{m}" for s, metrics in sets.items() for m in metrics]
    raise refuse(f"unknown metric {show(key)}", did_you_mean(key, known))


def check_metric(name: Any) -> str:
    """A metric's name without a set. Raises `refuse(...)`."""
    if not isinstance(name, str):
        raise expected("the name of a metric", name)
    if name not in METRICS:
        raise refuse(f"unknown metric {show(name)}", did_you_mean(name, METRICS))
    return name


def check_cheap_metric(name: Any) -> str:
    """A metric that every evaluation can measure. Raises `refuse(...)`."""
    if check_metric(name) not in STEERING:
        raise refuse(f"{name} needs more than one forward pass", "name it in evaluate.final")
    return str(name)


_ONLY_CHEAP = (
    f"steer by {', '.join(STEERING)}, and name it in evaluate.final to have it of every front point; "
    "a probe's metrics may steer whatever they cost"
)

STEERING_KEYS = tuple(f"{name}.{metric}" for name in (*SEARCH_SETS, *ATTACKED) for metric in STEERING)
"""Every key that criteria and objectives may name without a metric of one's own."""

OWN_METRICS: Form = {
    "properties": {
        "evaluate": {"properties": {"metrics": {"contains": {"pattern": r"\.py:"}}}, "required": ["metrics"]}
    },
    "required": ["evaluate"],
}
"""Of a spec that measures metrics of its own."""

_OWN_KEY: Form = {"type": "string", "pattern": r"^[a-z]\w*\.[A-Za-z_]\w*$"}
MetricKey = Annotated[str, PlainValidator(check_metric_key), HasForm(lambda: one_of(STEERING_KEYS, _OWN_KEY))]
