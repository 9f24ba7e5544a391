"""The spec that sweeps a fine-tuned target: what `rayul testbed DIR --base MODEL` writes to DIR/spec.yaml."""

from __future__ import annotations

from pathlib import Path

from rayul.spec import LEAST_GROUPS, Model, dump_yaml, parse_spec
from rayul.unlearn.data import Sets, group_numbers


def sweep_spec(folder: Path, sets: Sets, base: Model) -> str:
    """A commented spec on the rows and models of `folder`, valid under `load_spec` once they are there.

    base: how it turns rows into text is how the target was trained, and how the sweep has to read them.
    """
    rows = len(sets["forget"])
    batch_size = max(1, min(8, rows))
    steps = max(20, min(120, round(12 * rows / batch_size)))
    certified = len(set(group_numbers(sets.get("retain_certify", ())))) >= LEAST_GROUPS
    text = {name: value for name, value in base.text.items() if value}
    models = {role: dump_yaml({"path": str(folder / role)} | text) for role in ("model", "oracle")}
    written = _TEMPLATE.format(
        name=dump_yaml(folder.name).removesuffix("\n").removesuffix("\n..."),
        model=_indented(models["model"]),
        oracle=_indented(models["oracle"]),
        folder=dump_yaml(str(folder)).removesuffix("\n").removesuffix("\n..."),
        rows=rows,
        batch_size=batch_size,
        steps=steps,
        evaluate_every=max(1, steps // 8),
        certify="{points: 5, confidence: 0.9}" if certified else "false",
    )
    parse_spec(written, source="rayul testbed", check_files=False)
    return written


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines()).rstrip("\n")


_TEMPLATE = """\
# A sweep of the target that `rayul testbed` trained here. Every key: docs/spec.md.
#
#     rayul plan FILE      what it will cost, and what looks wrong
#     rayul sweep FILE     run it

name: {name}

# The model that has to forget, with how it was shown its rows.
model:
{model}

# The same base, trained without the rows to forget: what to compare with.
oracle:
{oracle}

data: {folder}

method:
  # gd ascends the forget loss and descends on retain rows, npo is a bounded ascent with both.
  name: {{choice: [gd, npo]}}
  retain_weight: {{float: [0.5, 4.0], log: true}}
  beta: {{float: [0.05, 1.0], log: true}}

lora: {{r: {{choice: [4, 8, 16]}}, alpha: 16}}

training:
  # A pretrained model bears less than the testbed's small one.
  lr: {{float: [1e-4, 2e-3], log: true}}
  # Forget rows a step, of {rows}.
  batch_size: {batch_size}
  steps: {steps}
  evaluate_every: {evaluate_every}

control:
  criteria:
    - {{metric: retain.es, at_least: 90% of baseline}}
    # What the base knew of the world before it was fine-tuned:
    # - {{metric: general.es, at_least: 80% of baseline}}
  # Scale each adapter back to the largest share that keeps the limits.
  mixing: true

objectives: {{forget.es: minimize, retain.es: maximize}}

search: {{sampler: tpe, trials: 24, seed: 0}}

# A certificate on groups that nothing else reads; false for none.
certify: {certify}

# Trials that share a device train together, over one copy of the model.
resources: {{gpu: 1, trials_per_gpu: auto}}
"""
