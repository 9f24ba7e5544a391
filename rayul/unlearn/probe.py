"""What one model says about one set of rows, each pass made once, when a metric first asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul import spec as specs
from rayul.errors import InputError
from rayul.unlearn import generation, membership
from rayul.unlearn.data import Row, group_numbers
from rayul.unlearn.forward import Model, TokenScores, score
from rayul.unlearn.template import DEFAULT_TEMPLATE, AnyTemplate, template_for, text_after_answer
from rayul.unlearn.tokens import Example, encode, encode_rows, pad_id

Floats = NDArray[np.float64]


class Generation(NamedTuple):
    """How answers are generated, and compared with the true ones. stop: an answer ends before the first of these.
    extract: a pattern that cuts the answer out of a text."""

    max_new_tokens: int = specs.MAX_NEW_TOKENS
    stop: tuple[str, ...] = ()
    rouge: specs.Rouge = specs.Rouge()
    extract: str | None = None

    @classmethod
    def of(cls, probe: specs.ProbeRows) -> Generation:
        return cls(probe.max_new_tokens, probe.stop, probe.rouge, probe.extract)


_PLAIN = Generation()


POSITIONS = 8192
"""Whose logits a forward over whole texts gives at once: of 2,048 tokens and a vocabulary of 128k a text has 1 GB."""


class Missing(InputError):
    """The rows, the sets or the models lack what a metric needs."""


class Probe:
    """A model in front of the rows of one set.

    Everything has one entry per row, in the rows' order. A pass over rows that lack its column raises Missing.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Any,
        rows: Sequence[Row],
        template: AnyTemplate = None,
        batch_size: int = 64,
        asked: Generation = _PLAIN,
    ) -> None:
        self.model, self.tokenizer, self.rows = model, tokenizer, rows
        self.template, self.batch_size, self.asked = template, batch_size, asked
        self.pad = pad_id(tokenizer)
        self.groups = group_numbers(rows)
        self._parts: dict[str, Probe] = {}

    def having(self, column: str) -> Probe:
        """The same model in front of the rows that have this column; in front of all, where all or none do."""
        rows = [row for row in self.rows if getattr(row, column)]
        if len(rows) in (0, len(self.rows)):
            return self
        if column not in self._parts:
            options = (self.template, self.batch_size, self.asked)
            self._parts[column] = Probe(self.model, self.tokenizer, rows, *options)
        return self._parts[column]

    @cached_property
    def examples(self) -> list[Example]:
        return encode_rows(self.tokenizer, self.template, self.rows)

    @cached_property
    def answers(self) -> list[TokenScores]:
        """question -> answer."""
        return self._score(self.examples)

    @cached_property
    def whole(self) -> list[TokenScores]:
        """The whole text up to the end of the answer, but for its first token, which nothing predicts."""
        examples = [Example(e.ids, 1, e.stop) for e in self.examples]
        longest = max(e.stop for e in examples)
        return score(self.model, examples, self.pad, max(1, min(self.batch_size, POSITIONS // longest)))

    @cached_property
    def rephrased(self) -> list[TokenScores]:
        """paraphrased question -> answer."""
        self.require("paraphrased_question")
        return self._score(self._encode([(row, row.paraphrased_question, row.answer) for row in self.rows]))

    @cached_property
    def answer_logp(self) -> Floats:
        """question -> answer, mean log p, [N]."""
        return np.array([s.logp.mean() for s in self.answers])

    @cached_property
    def paraphrase_logp(self) -> Floats:
        """question -> paraphrased answer, mean log p, [N]; the answer itself where a row has no paraphrase."""
        logp = self.answer_logp.copy()
        where = [i for i, row in enumerate(self.rows) if row.paraphrased_answer]
        pairs = [(self.rows[i], self.rows[i].question, self.rows[i].paraphrased_answer) for i in where]
        logp[where] = [s.logp.mean() for s in self._score(self._encode(pairs))]
        return logp

    @cached_property
    def perturbed_logp(self) -> list[Floats]:
        """question -> each wrong answer, mean log p."""
        self.require("perturbed_answer")
        pairs = [(row, row.question, wrong) for row in self.rows for wrong in row.perturbed_answer]
        logp = np.array([s.logp.mean() for s in self._score(self._encode(pairs))])
        return np.split(logp, np.cumsum([len(row.perturbed_answer) for row in self.rows])[:-1])

    @cached_property
    def choice_logp(self) -> list[Floats]:
        """the bare question -> the text of each option, sum of log p."""
        return self._choice_logp([DEFAULT_TEMPLATE] * len(self.rows))

    @cached_property
    def asked_choice_logp(self) -> list[Floats]:
        """The same with the question in the words and the template of the set."""
        return self._choice_logp([template_for(replace(row, choices=()), self.template) for row in self.rows])

    def _choice_logp(self, templates: Sequence[AnyTemplate]) -> list[Floats]:
        self.require("choices")
        examples = [
            encode(self.tokenizer, template, row.stem, choice)
            for row, template in zip(self.rows, templates, strict=True)
            for choice in row.choices
        ]
        logp = np.array([s.logp.sum() for s in self._score(examples)])
        return np.split(logp, np.cumsum([len(row.choices) for row in self.rows])[:-1])

    @cached_property
    def standardised(self) -> list[Floats]:
        """question -> answer, log p in units of the model's own next-token distribution."""
        return membership.standardised(self.model, self.examples, self.pad, self.batch_size)

    @cached_property
    def generated(self) -> list[list[int]]:
        """The greedy answer to each question, as tokens without the end token."""
        prompts = [e.ids[: e.start] for e in self.examples]
        limits = [self.asked.max_new_tokens] * len(prompts)
        ended = self._has_stop if self.asked.stop else None
        return generation.generate(self.model, prompts, limits, self._stop, self.pad, self.batch_size, ended)

    @cached_property
    def texts(self) -> list[str]:
        """The greedy answers as text, without what the template writes behind an answer, and up to the first stop."""
        texts = []
        for row, whole in zip(self.rows, self._whole_texts, strict=True):
            tail = text_after_answer(self.tokenizer, template_for(row, self.template)).strip()
            ends = [whole.find(stop) for stop in (*self.asked.stop, *filter(None, [tail]))]
            texts.append(whole[: min((end for end in ends if end >= 0), default=len(whole))].strip())
        return texts

    @property
    def references(self) -> list[str]:
        """The true answers as `rouge` compares with them."""
        first = self.asked.rouge.tokens
        if first is None:
            return [row.answer for row in self.rows]
        return [self._text(e.ids[e.start : e.stop][:first]) for e in self.examples]

    @property
    def stop_note(self) -> str | None:
        """That there are stop texts and none came, while answers went on to their limit."""
        stops = self.asked.stop
        if "generated" not in vars(self) or not stops or any(stop in t for t in self._whole_texts for stop in stops):
            return None
        shown, limit = ", ".join(map(repr, stops)), self.asked.max_new_tokens
        cut = sum(len(ids) == limit for ids in self.generated)
        if not cut:
            return None
        return f"none of {len(self.rows)} answers has a stop text ({shown}), and {cut} go on to {limit} tokens"

    @cached_property
    def _whole_texts(self) -> list[str]:
        return [self._text(ids) for ids in self.generated]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _has_stop(self, ids: Sequence[int]) -> bool:
        """Whether a stop ends within the last token. A token has a byte at least."""
        reach = 1 + max(len(stop.encode()) for stop in self.asked.stop)
        return any(stop in self._text(ids[-reach:]) for stop in self.asked.stop)

    @cached_property
    def similar(self) -> Floats:
        """Extraction strength with a similar continuation, [N]."""
        return generation.similar_extraction_strength(
            self.model, self.examples, self.answers, self._stop, self.pad, self.batch_size
        )

    @property
    def _stop(self) -> frozenset[int]:
        """End tokens: the tokenizer's, those of the model's files (chat models name several), and what closes an answer
        in the rendered rows, where that is one token of the tokenizer's own, such as <|im_end|>."""
        configs = (
            getattr(self.model, "generation_config", None),
            self.model.config,
            self.model.config.get_text_config(),
        )
        named = [getattr(config, "eos_token_id", None) for config in configs]
        tokens = {self.tokenizer.eos_token_id, *(n for one in named for n in (one if isinstance(one, list) else [one]))}
        closing = {e.ids[e.stop] for e in self.examples if e.stop < len(e.ids)}
        tokens |= closing & set(self.tokenizer.added_tokens_decoder)
        return frozenset(int(token) for token in tokens if token is not None)

    def _encode(self, pairs: Sequence[tuple[Row, str, str]]) -> list[Example]:
        """Other questions or answers of rows, in the wording of the row."""
        return [encode(self.tokenizer, template_for(row, self.template), asked, answer) for row, asked, answer in pairs]

    def _score(self, examples: Sequence[Example]) -> list[TokenScores]:
        return score(self.model, examples, self.pad, self.batch_size)

    def require(self, column: str) -> None:
        """Raises Missing unless all rows have this column."""
        having = sum(bool(getattr(row, column)) for row in self.rows)
        if having < len(self.rows):
            raise Missing(f"{having} of {len(self.rows)} rows have a {column}")


class Probes(NamedTuple):
    """The model's probe by set, and the oracle's, where there is one. oracle_auc: in place of what its probes would
    give, where that is known."""

    sets: Mapping[str, Probe]
    oracle: Mapping[str, Probe] | None
    oracle_auc: float | None = None

    def of(self, key: str) -> Probe:
        """The model's probe of a set; raises Missing where it has no rows."""
        if key not in self.sets:
            raise Missing(f"there are no {key} rows")
        return self.sets[key]

    def of_oracle(self, key: str) -> Probe:
        """The oracle's probe of a set that has rows; raises Missing without an oracle."""
        if self.oracle is None:
            raise Missing("there is no oracle to compare with")
        return self.oracle[key]
