"""The sections of a spec besides data, method, metrics and criteria: names, types, defaults, bounds, a field a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core.core_schema import ValidationInfo

from rayul.spec.budget import AnyStagnation, Duration
from rayul.spec.criteria import Criterion, Tau
from rayul.spec.custom import custom_sampler, is_custom, source_of, with_code
from rayul.spec.data import TESTBED
from rayul.spec.forms import OWN_FUNCTION, HasForm, form, named
from rayul.spec.method_form import own_control_form
from rayul.spec.own_control import OwnControl
from rayul.spec.packaged import PACKAGED
from rayul.spec.problems import did_you_mean, expected, refuse, refuse_all, show
from rayul.spec.samplers import SAMPLERS, Sampler
from rayul.spec.section import Searchable, Section
from rayul.spec.source import find, looks_local, missing, wants_files
from rayul.spec.space import looks_searched
from rayul.spec.yaml_text import unescaped

_CONFIGS = ("config.json", "adapter_config.json")
_TOKENIZER_FILES = ("*token*", "vocab*", "*.model", "*.tiktoken")


def _check_model_path(path: str, info: ValidationInfo) -> str:
    if not path:
        raise refuse("is empty", "write testbed, smollm2, a folder or a Hub id")
    if path == TESTBED or not wants_files(info):
        return path
    if path in PACKAGED:
        if not PACKAGED[path].files():
            raise refuse(f"{path} is in a package that is not installed", PACKAGED[path].command)
        return path
    folder = find(path)
    if folder is None:
        if looks_local(path):
            raise missing(path)
        return path
    if folder.suffix == ".gguf" and folder.is_file():
        way_out = f"write {{path: {folder.parent}, gguf_file: {folder.name}}}"
        raise refuse(f"{show(path)} is a file, and a model's path is a folder or a Hub id", way_out)
    if any(folder.glob("*.gguf")):  # whether one of them is meant says gguf_file
        return path
    if (folder / "adapter_config.json").is_file():  # it is loaded with its base, and may have the base's tokenizer
        return path
    if not (folder / "config.json").is_file():
        raise refuse(
            f"{show(path)} is not a model: it has no config.json", "name the folder that save_pretrained wrote"
        )
    return path


def _has_tokenizer(folder: Path) -> bool:
    return any(file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern))


def _check_tokenizer_path(path: str, info: ValidationInfo) -> str:
    if not path or path in (TESTBED, *PACKAGED):
        raise refuse("is empty" if not path else f"{path} is no folder or Hub id", "write a folder or a Hub id")
    folder = find(path) if wants_files(info) else None
    if folder is None:
        if wants_files(info) and looks_local(path):
            raise missing(path)
        return path
    if not folder.is_dir() or not _has_tokenizer(folder):
        raise refuse(f"{show(path)} has no tokenizer", "name the folder that tokenizer.save_pretrained wrote")
    return path


def _check_gguf_name(name: str) -> str:
    if not name.endswith(".gguf") or Path(name).is_absolute() or ".." in Path(name).parts:
        raise refuse(f"{show(name)} names no GGUF file within the model's folder", "for example model-Q4_K_M.gguf")
    return name


def check_template(template: str) -> str:
    template = unescaped(template)
    if template != "chat":
        question, answer = template.find("{question}"), template.find("{answer}")
        if question < 0 or answer < question:
            hint = 'write chat, or a text such as "Question: {question}\\nAnswer: {answer}"'
            raise refuse("a template has {question} and, after it, {answer}", hint)
    return template


def _check_day(day: str) -> str:
    try:
        return date.fromisoformat(day).isoformat()
    except ValueError:
        raise refuse(f"{show(day)} is not a date", "write year, month and day, as in 2026-07-31") from None


def _check_chat_args(arguments: dict[str, Any]) -> dict[str, Any]:
    for name, value in arguments.items():
        if looks_searched(value):
            raise refuse(f"{name} cannot be searched", "write one value: all trials of a sweep share it")
    return arguments


class Model(Section):
    """A causal language model. A plain text in the YAML is its `path`."""

    TEXT: ClassVar[tuple[str, ...]] = ("template", "system", "chat_template_args", "date")

    path: Annotated[str, AfterValidator(_check_model_path)] = Field(examples=[TESTBED])
    """ "testbed" for the embedded one, "smollm2" or "gemma3-270m" for one from a package, a folder, or a Hub id"""
    revision: str | None = None
    gguf_file: Annotated[str, AfterValidator(_check_gguf_name)] | None = None
    """A GGUF file in that folder or under that id, of any kind of quantisation that transformers can undo. It is
    converted once, into rayul's cache."""
    tokenizer: Annotated[str, AfterValidator(_check_tokenizer_path)] | None = None
    """A folder or Hub id with the tokenizer, for a model that comes without its own, such as some GGUF files and
    checkpoints; null for the one beside the model. Code that comes with it is never run."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    template: Annotated[str, AfterValidator(check_template)] | None = None
    """How question and answer become a text: "chat" for the tokenizer's own chat template, or a text with {question}
    and {answer}; null for the chat template where the tokenizer has one and a plain text where not."""
    system: str | None = None
    """The system message of a chat template."""
    chat_template_args: Annotated[dict[str, Any], AfterValidator(_check_chat_args)] = Field(default={})
    """Other variables of the chat template, such as {enable_thinking: false}."""
    date: Annotated[str, AfterValidator(_check_day)] | None = None
    """The date that a chat template gets where it asks for one, such as 2026-07-31; null for the day on which
    the sweep begins, also when it is resumed, exported or audited later."""
    trust_remote_code: bool = False
    quantize: Literal["4bit"] | None = None
    """Load the frozen weights as 4-bit NormalFloat (arXiv 2305.14314); needs a CUDA GPU and bitsandbytes."""

    @property
    def positions(self) -> int | None:
        """Tokens that the model reads at once, where a folder of this machine says so; None where that is not known."""
        folder = find(self.path) if self.path not in (TESTBED, *PACKAGED) else None
        try:
            config = json.loads((folder / "config.json").read_bytes()) if folder is not None else {}
            config = config.get("text_config", config)
            found = config.get("max_position_embeddings", config.get("n_positions"))
        except (OSError, ValueError, AttributeError):  # whoever loads the model says what is wrong with the file
            return None
        return found if isinstance(found, int) and found > 0 else None

    @property
    def text(self) -> dict[str, Any]:
        """The settings that say how a row becomes text."""
        return {name: getattr(self, name) for name in self.TEXT}

    @model_validator(mode="after")
    def _check_gguf(self, info: ValidationInfo) -> Model:
        if self.gguf_file is not None and self.path in (TESTBED, *PACKAGED):
            raise refuse_all([(("gguf_file",), refuse(f"{self.path} is not a folder or a Hub id", "leave it out"))])
        folder = find(self.path) if wants_files(info) and self.path not in (TESTBED, *PACKAGED) else None
        if folder is None:
            return self
        if self.gguf_file is not None and not (folder / self.gguf_file).is_file():
            raise refuse_all([(("gguf_file",), missing(str(folder / self.gguf_file)))])
        if self.gguf_file is None and not any((folder / name).is_file() for name in _CONFIGS):
            files = [file.name for file in sorted(folder.glob("*.gguf"))]
            problem = refuse(f"{show(self.path)} has no config.json, only GGUF files", f"add gguf_file: {files[0]}")
            raise refuse_all([(("path",), problem)])
        return self

    @model_validator(mode="after")
    def _check_tokenizer(self, info: ValidationInfo) -> Model:
        if self.tokenizer is not None or self.gguf_file is not None or self.path in (TESTBED, *PACKAGED):
            return self
        folder = find(self.path) if wants_files(info) else None
        if folder is None or not (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
            return self  # an adapter may have its base's
        if not _has_tokenizer(folder):
            hint = "save it there with tokenizer.save_pretrained, or name another place as model.tokenizer"
            raise refuse_all([(("path",), refuse(f"{show(self.path)} has no tokenizer", hint))])
        return self

    @model_validator(mode="after")
    def _check_chat(self) -> Model:
        if self.template not in (None, "chat"):
            text, hint = (
                "is for chat templates, and model.template is a text",
                "write it into the text, or leave it out",
            )
            given = [name for name in ("system", "chat_template_args") if getattr(self, name)]
            if given:
                raise refuse_all([((name,), refuse(text, hint)) for name in given])
        return self


def _check_modules(value: Any) -> Literal["all-linear"] | tuple[str, ...]:
    if value == "all-linear":
        return "all-linear"
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(name, str) for name in value):
        hint = f"write [{value}]" if isinstance(value, str) else "for example [q_proj, v_proj]"
        raise refuse(f"expected all-linear or a list of module names, got {show(value)}", hint)
    return tuple(value)


def _check_layers(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value or not all(type(n) is int and n > 0 for n in value):
        raise expected("a list of numbers of blocks, counted from 1", value)
    return tuple(value)


_MODULES = form(anyOf=[{"const": "all-linear"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}])
_COUNT = {"type": "integer", "minimum": 1}
_LAYERS = form(anyOf=[{"type": "array", "items": _COUNT, "minItems": 1}, {"type": "null"}])


class Lora(Searchable):
    """The adapter's shape (arXiv 2106.09685); its update is scaled by alpha / r."""

    unsearchable: ClassVar[tuple[str, ...]] = ("target_modules", "layers")

    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Annotated[Literal["all-linear"] | tuple[str, ...], PlainValidator(_check_modules), _MODULES] = (
        "all-linear"
    )
    layers: Annotated[tuple[int, ...] | None, PlainValidator(_check_layers), _LAYERS] = None
    """Numbers of the blocks whose modules get an adapter, such as [3, 4, 5], counted from 1; null for all. To a method
    that reads hidden states, blocks behind the last one that it reads make no difference."""


def _check_cadence(value: Any) -> int | Literal["geometric", "auto"]:
    if value in ("geometric", "auto"):
        named_cadence: Literal["geometric", "auto"] = value
        return named_cadence
    if isinstance(value, bool) or not isinstance(value, int):
        raise expected("a whole number, auto or geometric", value)
    if value < 1:
        raise refuse(f"must be at least 1, got {value}")
    return value


class Training(Searchable):
    """The optimiser and how long it runs."""

    lr: float = Field(gt=0, examples=["1e-3"])
    optimizer: Literal["adamw", "sign", "muon"] = "adamw"
    """AdamW; the sign of the gradient alone (signSGD); or Muon, which makes a step of each matrix orthogonal."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule of the learning rate after the warm-up: constant, or falling to 0 at the end."""
    layered: int | None = Field(default=None, ge=2)
    """Number of folds of the forget rows: stage i forgets the first i and retains the others; null for one stage. The
    rows of a group are in one fold."""
    augment: Literal["paraphrase"] | None = None
    """paraphrase: a forget or retain row that has a paraphrased_question is taken with it every other time."""
    batch_size: int = Field(default=8, ge=1)
    """Forget rows per step; methods that read retain rows take as many of them."""
    steps: int = Field(default=60, ge=1)
    evaluate_every: Annotated[
        int | Literal["geometric", "auto"], PlainValidator(_check_cadence), named(["geometric", "auto"], _COUNT)
    ] = 5
    """Steps between evaluations; "geometric": ever longer gaps; "auto": a twelfth of the steps, or with mixing a
    quarter, and as long as every answer token that training reads stands as it stood the last evaluation is repeated,
    without reading a row."""
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows per forward pass, where a batch does not fit into memory; null for the whole batch."""
    gradient_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them: a third more time for a
    fraction of the memory."""


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Control(Searchable):
    """What limits excessive unlearning. A plain list in the YAML is its `criteria`."""

    unsearchable: ClassVar[tuple[str, ...]] = ("own",)

    criteria: tuple[Criterion, ...] = Field(default=(), strict=False)
    tau: Tau | None = None
    """Share of the baseline that each utility objective has to keep: short for a criterion, and the target of mixing. A
    list, such as [0.5, 0.7, 0.9, 0.95], asks for the whole trade-off: trials are judged by the smallest, calibrated to
    each, and the report has the best at each."""
    loss_cap: float | None = Field(default=None, gt=0)
    """In nats: a forget sequence whose loss is above it no longer pushes."""
    loss_cap_of: Literal["mean", "sum"] = "mean"
    """Whether loss_cap is on a sequence's mean loss per token or on its sum."""
    token_cap: float | None = Field(default=None, gt=0)
    """In nats: a forget token whose loss is above it no longer pushes."""
    temperature: float = Field(default=1.0, gt=0)
    """The forget loss is taken on logits / temperature."""
    select_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of each row's answer tokens that is unlearned."""
    select_by: Literal["smallest", "largest"] = "smallest"
    """Whether those are the tokens of smallest or of largest loss."""
    own: Annotated[
        tuple[Annotated[OwnControl, PlainValidator(OwnControl.parse)], ...],
        BeforeValidator(_one_or_more),
        HasForm(lambda: {"anyOf": [OWN_FUNCTION, {"type": "array", "items": own_control_form()}]}),
    ] = Field(default=(), strict=False)
    """Custom controls, ./my_control.py:fn or {name: ./my_control.py:fn, above: 0.5}, after those above and before
    the temperature (rayul/spec/custom.py)."""
    ball: float | None = Field(default=None, gt=0)
    """Radius to which each matrix's update is projected after a step."""
    ball_norm: Literal["frobenius", "elementwise"] = "frobenius"
    mixing: bool = False
    """Whether the adapter is scaled back to the largest mixing that keeps the criteria."""
    confidence: float | None = Field(default=None, gt=0.5, lt=1)
    """Calibrate on the lower bound at this confidence (t over groups) instead of on the mean."""


def _check_sampler(name: str, info: ValidationInfo) -> str:
    if is_custom(name):
        custom_sampler(name, source_of(name, info.data.get("code", {})))
    elif name not in SAMPLERS:
        hint = "for a sampler of your own write ./my_sampler.py:function" if name.endswith(".py") else ""
        raise refuse(f"unknown sampler {show(name)}", hint or did_you_mean(name, SAMPLERS))
    return name


WarmStart = Annotated[str, Field(min_length=1)]


REPLICATES_FROM = 48
"""Trials from which on `search.replicate: auto` trains leading configurations again."""


class Search(Section):
    """What to try, and how often."""

    code: dict[str, str] = Field(default_factory=dict)
    """The source text of a custom sampler, by its path; read when the spec is."""
    sampler: Annotated[str, AfterValidator(_check_sampler), named(SAMPLERS, OWN_FUNCTION)] = "tpe"
    """One of SAMPLERS, or a custom one, ./my_sampler.py:fn (rayul/spec/custom.py)."""
    trials: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    startup_trials: int = Field(default=10, ge=0)
    """Number of random trials before the sampler models anything."""
    replicate: bool | Literal["auto"] = "auto"
    """Whether the last third of the trials trains the configurations that lead once more, with fresh seeds, in place of
    new ones: what a recipe is worth is the mean of its seeds. auto: with 48 trials and more, and a sampler that learns
    from trials or from nothing. results/search says what it gains."""
    time_limit: Duration | None = None
    """Limit of all runs together, in seconds or as 30m, 2h, 1h30m: then the sweep ends as on Ctrl-C, with all its rows,
    and a resume with more time finishes the trials that were running."""
    trial_time_limit: Duration | None = None
    """Limit of one trial: a trial that takes longer fails and is not started again."""
    max_device_hours: float | None = Field(default=None, gt=0)
    """Limit of all trials together, each by its share of a GPU (without a GPU, in core-hours); ends likewise."""
    stagnation: AnyStagnation | None = None
    """Stop starting trials after this many in a row did not improve the front; running trials finish."""
    warm_start: Annotated[
        tuple[WarmStart, ...], BeforeValidator(_one_or_more, json_schema_input_type=tuple[WarmStart, ...] | WarmStart)
    ] = Field(default=(), strict=False)
    """Results folders of earlier sweeps of the same space, model and rows: what their trials found is known from the
    start, and they do not count as trials of this sweep. Not for samplers that learn from nothing or in generations."""
    tell: Literal["auto", "last", "best", "most_forgotten", "last_feasible"] = "auto"
    """Which evaluation represents a trial to the sampler: its last, wherever that is; or of its solutions
    the one that alone dominates the largest volume, the one that forgets most, or the last. auto: the best with
    control.mixing or a limit on a metric that is no objective, else the last. results/search compares them."""

    @model_validator(mode="before")
    @classmethod
    def _read_code(cls, section: Any) -> Any:
        return with_code(section, [section.get("sampler")] if isinstance(section, Mapping) else [])

    @model_validator(mode="after")
    def _check_warm_start(self) -> Search:
        if self.warm_start and self.traits.learns != "trials":
            why = "models generations of its own trials" if self.traits.learns == "generations" else "models nothing"
            able = " or ".join(name for name, sampler in SAMPLERS.items() if sampler.learns == "trials")
            hint = f"use {able}, or leave warm_start out"
            raise refuse_all([(("warm_start",), refuse(f"sampler {self.sampler} {why}", hint))])
        return self

    @model_validator(mode="after")
    def _check_replicate(self) -> Search:
        if self.replicate is True and self.traits.grid:
            hint = "use another sampler, or run the grid again with another search.seed"
            raise refuse_all([(("replicate",), refuse("a grid trains each of its cells once", hint))])
        return self

    @property
    def replicates(self) -> bool:
        """Whether the last third of the trials trains the leading configurations again."""
        if self.replicate == "auto":
            learns = self.traits.learns != "generations" and not is_custom(self.sampler) and not self.traits.grid
            return learns and self.trials >= REPLICATES_FROM
        return self.replicate

    @property
    def traits(self) -> Sampler:
        """What is known of the sampler."""
        own = is_custom(self.sampler)
        return custom_sampler(self.sampler, source_of(self.sampler, self.code)) if own else SAMPLERS[self.sampler]


def _check_trials_per_gpu(value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise expected("a whole number from 1, or auto", value)
    return value


def _check_compile(value: Any) -> Any:
    if value != "auto" and not isinstance(value, bool):
        raise expected("true, false or auto", value)
    return value


class Resources(Section):
    """What the trials that share a device take of the machine."""

    gpu: float = Field(default=1.0, ge=0)
    """GPUs per device; 0 uses CPU cores."""
    cpu: float = Field(default=1.0, gt=0)
    """CPU cores per device."""
    trials_per_gpu: Annotated[
        int | Literal["auto"], BeforeValidator(_check_trials_per_gpu), named(["auto"], _COUNT)
    ] = "auto"
    """Number of trials that share a device. auto: the fastest number, measured once for each machine and shape where
    training takes long enough, else up to 2 on a core and 4 on a GPU; fewer where the search learns from each trial."""
    packs: bool = True
    """Whether trials that share a device train together, in one forward and backward over one copy of the model. Off:
    each has a process of its own, which only GPUs share."""
    compile: Annotated[
        bool | Literal["auto"], BeforeValidator(_check_compile), named(["auto"], {"type": "boolean"})
    ] = "auto"
    """Whether the pack's computation is compiled first (`torch.compile`), which takes a minute or more, on a CPU with
    its C++ compiler. auto: where training takes long enough, it is tried, and kept if it pays. Not for LoRA dropout,
    `latent` or methods that read hidden states (rmu, cb); trials alone are never compiled."""
    checkpoint_every: Duration = 60.0
    """Seconds of training that a trial in a pack may lose with its device."""
    concurrency: int | None = Field(default=None, ge=1)
    """Number of trials at a time; null for as many as fit when the sweep begins. On a cluster that grows, what it
    may grow to: trials without room wait, and an autoscaler adds the nodes that they ask for."""
