"""What a trial trains, and how that is mixed, saved and read again.

| module | what it is |
| --- | --- |
| contract | what the rest of rayul knows of an update |
| lora | `update: lora`, a low-rank adapter on the frozen base |
| full | `update: full`, all weights, in a copy of the base |
| saved | saved updates, whatever trained them: a PEFT folder or a whole model |

To add a kind: a row in `rayul/spec/update.py`, and a module here of the same name with `attach(task, spec, seed)`.
"""

from rayul.unlearn.update.contract import Update, attach

__all__ = ["Update", "attach"]
