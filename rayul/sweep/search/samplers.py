"""Samplers made from their rows in the spec, and the space of a spec in Optuna's terms."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from rayul.errors import InputError, RayulError
from rayul.records import Evaluation
from rayul.spec import Choice, Float, Int, Search, Spec, is_custom
from rayul.sweep.search.priors import WithPriors
from rayul.unlearn.own import own_function

if TYPE_CHECKING:  # what only one sampler needs is not imported at each start
    from rayul.sweep.search.trajectory.sampler import Evidence


def evidence_of(spec: Spec, baseline: Evaluation, rows: Callable[[str], Sequence[Evaluation]]) -> Evidence | None:
    """What a sampler that models trajectories reads; None for the others."""
    if not spec.search.traits.trajectories:
        return None
    from rayul.sweep.search.trajectory.sampler import Evidence

    return Evidence(spec, baseline, rows)


def sampler(spec: Spec, number: int, evidence: Evidence | None = None) -> optuna.samplers.BaseSampler:
    """The sampler that draws trial `number`; evidence: for those that model trajectories, which without it do not. The
    first trials follow the priors of the space, except with samplers that learn nothing and with somebody's own.

    Made anew for each trial, seeded by (search.seed, number): a draw depends on the seed, the number and what has been
    told, so a resumed search neither repeats draws nor needs a sampler's hidden state.
    """
    search = spec.search
    if evidence is not None and number < search.traits.trajectories:
        from rayul.sweep.search.trajectory.sampler import TrajectorySampler

        return TrajectorySampler(evidence, search.seed, search.startup_trials)
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # multivariate, group: stable since 2.2
        made = _own(search, seed) if is_custom(search.sampler) else _built_in(spec, seed)
    if not isinstance(made, optuna.samplers.BaseSampler):
        raise InputError(f"{search.sampler} returned a {type(made).__name__}", "return an optuna.samplers.BaseSampler")
    return made


def handed_over(search: Search, earlier: int) -> str:
    """Which trials another sampler will propose, as a sentence; "" where none. earlier: trials that the study begins
    with."""
    first = search.traits.trajectories
    if not first or search.trials + earlier <= first:
        return ""
    return f"{search.sampler} proposes the first {first} trials of the study, {search.traits.optuna} those after them"


def _own(search: Search, seed: int) -> Any:
    return own_function(search.sampler, search.code)(seed, search.startup_trials)


def _built_in(spec: Spec, seed: int) -> Any:
    row = spec.search.traits
    startup = {row.startup: max(row.least, spec.search.startup_trials)} if row.startup else {}
    made = getattr(optuna.samplers, row.optuna)(seed=seed, **startup, **row.options)
    priors = spec.priors
    return (
        WithPriors(made, priors, spec.search.seed, spec.search.startup_trials)
        if priors and row.learns != "nothing"
        else made
    )


@contextmanager
def blamed(search: Search, number: int) -> Iterator[None]:
    """What a custom sampler raises while it draws trial `number` is an InputError that names it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RayulError) or not is_custom(search.sampler):
            raise
        raise InputError(
            f"{search.sampler} failed to draw trial {number}: {type(error).__name__}: {error}",
            "it is made anew for every trial; a new sweep can begin with the trials of this one, see search.warm_start",
        ) from error


def check_sampler(spec: Spec) -> None:
    """Draw one trial of an empty study with a custom sampler, before anything is spent; raises InputError for
    what it raises, and where it is no sampler."""
    if is_custom(spec.search.sampler):
        with blamed(spec.search, 0):
            study = optuna.create_study(directions=list(spec.objectives.values()), sampler=sampler(spec, 0))
            suggest(study.ask(), spec)


def suggest(trial: optuna.Trial, spec: Spec) -> dict[str, Any]:
    """Draw every active parameter of the space, by dotted key; those the trial already has are kept."""
    params: dict[str, Any] = {}
    for key, distribution in spec.space.items():
        if not spec.is_active(key, params):
            continue
        match distribution:
            case Float(low, high, log, step):
                params[key] = trial.suggest_float(key, low, high, log=log, step=step)
            case Int(low, high, log, step):
                params[key] = trial.suggest_int(key, low, high, log=log, step=step)
            case Choice(options):
                params[key] = trial.suggest_categorical(key, options)
    return params


def distributions(spec: Spec, params: Mapping[str, Any]) -> dict[str, optuna.distributions.BaseDistribution]:
    """The distributions that `suggest` has drawn these parameters from, as Optuna stores them."""
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for key in params:
        match spec.space[key]:
            case Float(low, high, log, step):
                found[key] = optuna.distributions.FloatDistribution(low, high, log=log, step=step)
            case Int(low, high, log, step):
                found[key] = optuna.distributions.IntDistribution(low, high, log=log, step=step)
            case Choice(options):
                found[key] = optuna.distributions.CategoricalDistribution(options)
    return found


def grid(spec: Spec) -> Iterator[dict[str, Any]]:
    """Every cell of the space, each once; inactive parameters open no further cells. One by one: a grid may have more
    cells than could be listed."""

    def cells(keys: list[str], params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not keys:
            yield params
            return
        key, rest = keys[0], keys[1:]
        if not spec.is_active(key, params):
            yield from cells(rest, params)
            return
        for value in _values(spec.space[key]):
            yield from cells(rest, params | {key: value})

    return cells(list(spec.space), {})


def _values(distribution: Float | Int | Choice) -> Iterator[Any]:
    match distribution:
        case Choice(options):
            yield from options
        case Int(low, high, _, step):
            yield from range(low, high + 1, step)
        case Float(low, high, _, step):
            assert step is not None  # the spec refuses a grid without
            # Decimal: 0.1 + 2 * 0.1 is beyond 0.3, and refused as outside of the range.
            first, last, width = (Decimal(str(number)) for number in (low, high, step))
            yield from (float(first + i * width) for i in range(int((last - first) // width) + 1))
