"""Optuna's samplers by name, and the space of a spec in Optuna's terms."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import optuna

from rayul.spec import Choice, Float, Int, Search, Spec

SAMPLERS: dict[str, Callable[[Search, int], optuna.samplers.BaseSampler]] = {
    # group: a method's own parameters are modelled where the method is; constant_liar: running trials count as taken.
    "tpe": lambda search, seed: optuna.samplers.TPESampler(
        n_startup_trials=search.startup_trials, multivariate=True, group=True, constant_liar=True, seed=seed
    ),
    "nsga2": lambda search, seed: optuna.samplers.NSGAIISampler(
        population_size=max(2, search.startup_trials), seed=seed
    ),
    "nsga3": lambda search, seed: optuna.samplers.NSGAIIISampler(
        population_size=max(2, search.startup_trials), seed=seed
    ),
    # With conditional parameters GP has no model for those outside the common space and draws them at random.
    "gp": lambda search, seed: optuna.samplers.GPSampler(
        n_startup_trials=search.startup_trials, seed=seed, warn_independent_sampling=False
    ),
    "random": lambda search, seed: optuna.samplers.RandomSampler(seed=seed),
    # Every cell of a grid is enqueued (GridSampler raises on the last cell under ask/tell); nothing is left to draw.
    "grid": lambda search, seed: optuna.samplers.RandomSampler(seed=seed),
}


def sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that draws trial `number`.

    Made anew for each trial, seeded by (search.seed, number): a draw depends on the seed, the number and what has been
    told, so a resumed search neither repeats draws nor needs a sampler's hidden state.
    """
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # multivariate, group: stable since 2.2
        return SAMPLERS[search.sampler](search, seed)


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


def grid(spec: Spec) -> list[dict[str, Any]]:
    """Every cell of the space, each once; inactive parameters open no further cells."""

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

    return list(cells(list(spec.space), {}))


def _values(distribution: Float | Int | Choice) -> list[Any]:
    match distribution:
        case Choice(options):
            return list(options)
        case Int(low, high, _, step):
            return list(range(low, high + 1, step))
        case Float(low, high, _, step):
            assert step is not None  # the spec refuses a grid without
            # Decimal: 0.1 + 2 * 0.1 is beyond 0.3, and refused as outside of the range.
            first, last, width = (Decimal(str(number)) for number in (low, high, step))
            return [float(first + i * width) for i in range(int((last - first) // width) + 1)]
