"""Commands on models that no sweep made: score one, train one that has something to forget."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from rayul.cli.app import TrustRemoteCode, app
from rayul.cli.output import takes_files, writing
from rayul.console import PlainConsole, show
from rayul.errors import InputError
from rayul.progress import ProgressBar, doing

_OTHER_OUTPUT = "choose another file with --output"


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, a PEFT adapter, a Hub id or testbed.")],
    data: Annotated[
        str | None,
        typer.Option(help="Rows: testbed, a data folder, a file (as rows to forget), a spec or its `data` section."),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="In place of --data, a benchmark: muse-news, muse-books, wmdp-bio, wmdp-cyber or rwku.",
            metavar="NAME",
        ),
    ] = None,
    oracle: Annotated[str | None, typer.Option(help="A model trained without the forget rows.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Names, separated by commas; default: all.")] = None,
    lm_eval: Annotated[
        str | None, typer.Option(help="Tasks of lm-evaluation-harness, separated by commas, such as mmlu,wmdp_bio.")
    ] = None,
    template: Annotated[str | None, typer.Option(help='"chat", or a text with {question} and {answer}.')] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 (default), bfloat16, float16 or auto; a benchmark has its own.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    max_rows: Annotated[int | None, typer.Option(min=1, help="Maximum number of rows per set.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the numbers here, as JSON.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help='Change a key of the model, e.g. model.system="Be brief."'),
    ] = None,
) -> None:
    """Score a model or adapter that you already have, with the full metric suite or as a published benchmark does."""
    from rayul.records.text_note import noted_text
    from rayul.spec import parse_spec

    if (data is None) == (benchmark is None):
        raise InputError("which rows?", "give one of --data ROWS and --benchmark NAME")
    if output is not None and (output.is_dir() or not (os.access(output, os.W_OK) or takes_files(output.parent))):
        raise InputError(f"cannot write {output}: not a file that can be written", _OTHER_OUTPUT)
    text = noted_text(Path(model)) if template is None else {"template": template}
    if benchmark is not None:
        own = {"path": model, "tokenizer": None, "trust_remote_code": trust_remote_code, **text}
        own |= {"dtype": dtype} if dtype else {}
        if oracle or metrics or lm_eval:
            raise InputError("a benchmark has its own metrics", "leave --oracle, --metrics and --lm-eval out")
        _print_benchmark(benchmark, own, set_ or [], max_rows, output)
        return
    assert data is not None
    shared = {"dtype": dtype or "float32", "trust_remote_code": trust_remote_code} | text
    data = _data_of_spec(Path(data).expanduser()) or data
    single = Path(data).expanduser().is_file()
    source = json.dumps(str(Path(data).expanduser().absolute().parent)) if single else data  # a file is read below
    overrides = [f"model={json.dumps({'path': model} | shared)}", f"data={source}"]
    overrides += [f"oracle={json.dumps({'path': oracle} | shared)}"] if oracle else []
    overrides += [f"evaluate.final=[{metrics}]"] if metrics else []
    overrides += [f"evaluate.lm_eval=[{lm_eval}]"] if lm_eval else []
    overrides += set_ or []
    spec = parse_spec("name: evaluate\nmethod: ga\ntraining: {lr: 1e-3}", overrides, source="rayul evaluate")
    console = PlainConsole(stderr=True)
    for line in spec.notices:
        console.print(line, soft_wrap=True)
    with doing(console, "loading torch"):
        from rayul.testbed import with_testbed
        from rayul.unlearn.chunks import load_rows
        from rayul.unlearn.data import read_rows
        from rayul.unlearn.harness import check_tasks, harness_metrics
        from rayul.unlearn.model import load_model
        from rayul.unlearn.own import own_metrics
        from rayul.unlearn.suite import evaluate_model
        from rayul.unlearn.task import spaced
        from rayul.unlearn.template import Template, text_notices

    with ProgressBar(console) as bar:
        spec = with_testbed(spec, bar.update)
    check_tasks(spec.evaluate.lm_eval)
    own = own_metrics(spec.evaluate)
    found = {"forget": read_rows(Path(data).expanduser())} if single else load_rows(spec)
    if single and not found["forget"]:
        raise InputError(f"{data} has no rows", "name a file with rows as --data")
    sets = {key: tuple(spaced(list(rows), max_rows)) for key, rows in found.items()}
    with doing(console, "loading the model") as bar:
        loaded, tokenizer = load_model(spec.model)
        for line in text_notices(tokenizer, Template.of(spec.model)):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        compared = load_model(spec.oracle)[0] if spec.oracle else None
        result = evaluate_model(
            loaded,
            tokenizer,
            sets,
            Template.of(spec.model),
            compared,
            spec.evaluate.final or None,
            progress=lambda key, done: bar.update(f"measuring {key}", done),
            own=own,
            oracle_auc=spec.evaluate.oracle_auc,
        )
        if spec.evaluate.lm_eval:
            bar.update(f"running {', '.join(task.task for task in spec.evaluate.lm_eval)}")
        tasks = harness_metrics(loaded, tokenizer, spec.evaluate.lm_eval, spec.evaluate.batch_size)
    result = replace(result, measured=result.measured | tasks.measured, notes=tasks.notes)
    PlainConsole().print(result.table())
    if output is not None:
        with writing(output, _OTHER_OUTPUT):
            output.write_text(result.to_json() + "\n", encoding="utf-8")
        show(output)


def _data_of_spec(file: Path) -> str | None:
    """The section `data` of a spec, or a file that has only such a section, as `--data` takes it."""
    if file.suffix not in (".yaml", ".yml") or not file.is_file():
        return None
    from rayul.spec.yaml_text import read_yaml

    document = read_yaml(file.read_text(encoding="utf-8"), str(file))
    if document.problems or not isinstance(document.data, dict):
        raise InputError(f"{file} is no spec", "name a spec, a file with rows, or a data folder as --data")
    return json.dumps(document.data.get("data", document.data))


def _print_benchmark(
    name: str, model: Mapping[str, Any], overrides: Sequence[str], max_rows: int | None, output: Path | None
) -> None:
    from rayul.spec import load_spec, shipped_specs
    from rayul.spec.benchmarks import BENCHMARKS
    from rayul.spec.problems import did_you_mean

    if name not in BENCHMARKS:
        raise InputError(f"no benchmark {name!r}", did_you_mean(name, BENCHMARKS))
    own = [f"model.{key}={json.dumps(value)}" for key, value in model.items()]
    spec = load_spec(shipped_specs()[name], [*own, *overrides])
    console = PlainConsole(stderr=True)
    with doing(console, "loading torch"):
        from rayul.testbed import with_testbed
        from rayul.unlearn.benchmark import measure_benchmark
    with ProgressBar(console) as bar:
        spec = with_testbed(spec, bar.update)
    with doing(console, "loading the model") as bar:
        result = measure_benchmark(
            spec, BENCHMARKS[name], max_rows, lambda key, done: bar.update(f"measuring {key}", done)
        )
    PlainConsole().print(result.table())
    if output is not None:
        with writing(output, _OTHER_OUTPUT):
            output.write_text(result.to_json() + "\n", encoding="utf-8")
        show(output)


@app.command("testbed")
def write_testbed_folder(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Train on these rows instead: a folder of TOFU, a data folder, or JSONL/Parquet files."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Fine-tune this pretrained model: smollm2, gemma3-270m, a folder or a Hub id.")
    ] = None,
    authors: Annotated[
        int | None, typer.Option(help="Number of TOFU's 200 authors, or with --base alone of 84 invented ones, to use.")
    ] = None,
    forget: Annotated[str, typer.Option(help="TOFU's forget split.")] = "forget10",
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The column that says whom or what a row is about, such as customer_id."),
    ] = None,
    forget_group: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Forget this group; may be repeated. Default: the first tenth of the rows."),
    ] = None,
    allow_unmemorised: Annotated[
        bool, typer.Option("--allow-unmemorised", help="Keep a target that did not memorise the rows to forget.")
    ] = False,
    method: Annotated[str, typer.Option(help="With --base: full trains all weights, lora an adapter.")] = "full",
    lr: Annotated[float | None, typer.Option(min=0.0, help="With --base: the learning rate.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help='Change a key of the base, e.g. model.system="Be brief." (with --base)'
        ),
    ] = None,
) -> None:
    """Write the testbed, or a target model trained on your own rows, as plain Hugging Face folders and JSONL files."""
    console = PlainConsole(stderr=True)
    if (group or forget_group) and not data:
        raise InputError("--group and --forget-group are for rows of your own", "name their files with --data")
    if data and group is None:
        from rayul.testbed import ungrouped

        if notice := ungrouped(data):
            console.print(notice, style="yellow", highlight=False, markup=False, soft_wrap=True)
    if base is not None:
        rows = (data or [], authors, forget, group, forget_group or [])
        _testbed_on_base(folder, base, rows, allow_unmemorised, method, lr, set_ or [], console)
        return
    if method != "full" or lr is not None or set_:
        raise InputError("--method, --lr and --set need a pretrained model", "name one with --base")
    with doing(console, "loading torch") as bar, writing(folder, "name another folder"):
        from rayul.testbed import write_testbed, write_testbed_from_data
        from rayul.unlearn.data import FILES

        if data:
            summary = write_testbed_from_data(
                *(folder, data, bar.update, authors, forget),
                allow_unmemorised=allow_unmemorised,
                group=group,
                forget_groups=forget_group or [],
                say=partial(show, error=True),
            )
        else:
            write_testbed(folder, bar.update)
            summary = json.loads((folder / "testbed.json").read_text(encoding="utf-8"))
    strengths = {role: summary["memorised"][role]["es"] for role in ("model", "oracle")}
    show(f"{'extraction strength':<22}{'model':>10}{'oracle':>10}")
    for key in ("forget", "retain_train", "retain"):
        show(f"{FILES[key].removesuffix('.jsonl'):<22}" + "".join(f"{one[key]:>10.3g}" for one in strengths.values()))
    place = shlex.quote(str(folder))
    show(
        f"{folder}\nnext: cat {place}/retain_*.jsonl > {place}/retain.jsonl && "
        f"rayul init --forget {place}/forget.jsonl --retain {place}/retain.jsonl --model {place}/model"
    )


def _testbed_on_base(
    folder: Path,
    base: str,
    rows: tuple[list[Path], int | None, str, str | None, list[str]],
    allow_unmemorised: bool,
    method: str,
    lr: float | None,
    overrides: list[str],
    console: PlainConsole,
) -> None:
    from rayul.spec import parse_spec

    if method not in ("full", "lora"):
        raise InputError(f"--method {method}: unknown", "write full or lora")
    named = [f"model={json.dumps({'path': base})}", *overrides]
    spec = parse_spec("name: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}", named, source="rayul testbed")
    with doing(console, "loading torch"):
        from rayul.testbed.finetune import TuningRecipe
        from rayul.testbed.on_base import ALL_AUTHORS, LEARNING_RATES, invented, table, write_testbed_on_base
        from rayul.testbed.write import MEMORISED, read_sets, to_forget

    data, authors = rows[:2]
    sets = read_sets(*rows) if data else invented(ALL_AUTHORS if authors is None else authors)
    show(to_forget(sets), error=True)
    recipe = TuningRecipe(lr=lr or LEARNING_RATES[method], method="lora" if method == "lora" else "full")
    memorised = 0.0 if allow_unmemorised else MEMORISED
    with doing(console, "reading the rows") as bar, writing(folder, "name another folder"):
        summary = write_testbed_on_base(folder, spec.model, sets, recipe, bar.update, memorised)
    show(table(summary))
    show(f"{folder}\nnext: rayul sweep {shlex.quote(str(folder / 'spec.yaml'))}")
