"""`evaluate.lm_eval`: tasks of lm-evaluation-harness that are run at the end."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from rayul.spec.problems import refuse, show
from rayul.spec.section import Section
from rayul.spec.source import find, missing, wants_files


class HarnessTask(Section):
    """A task, or a group of tasks such as mmlu. A plain text is its name."""

    task: str = Field(min_length=1, examples=["wmdp_bio"])
    include_path: str | None = None
    """A folder with tasks of one's own, which every node has."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples before each question; null for the task's own number."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of examples of a task, the first ones; null for all."""

    @field_validator("task")
    @classmethod
    def _one_name(cls, task: str) -> str:
        if "." in task or "*" in task:
            raise refuse(f"{show(task)} is no single task", "name a task or a group, such as wmdp_bio or mmlu")
        return task

    @field_validator("include_path")
    @classmethod
    def _check(cls, path: str | None, info: ValidationInfo) -> str | None:
        if path is not None and wants_files(info):
            found = find(path)
            if found is None:
                raise missing(path)
            if not found.is_dir():
                raise refuse(f"{show(path)} is not a folder", "name the folder that the task's YAML file is in")
        return path


def _named(value: Any) -> Any:
    return {"task": value} if isinstance(value, str) else value


AnyHarnessTask = Annotated[HarnessTask, BeforeValidator(_named, json_schema_input_type=HarnessTask | str)]
