"""Errors that a user can act on: what is wrong, where, and the way out."""

from __future__ import annotations


class RayulError(Exception):
    """Something that stops a command. `message` names the value and the place, `hint` the way out."""

    exit_code = 1
    code = "failed"
    """The kind of error, for programs (`--json`)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Ray sends exceptions between processes by pickle; the default would lose `hint`.
        return (type(self), (self.message, self.hint))


class ResultsUnwritable(RayulError):
    """The results cannot be written (a full disk, a folder that became read-only): the sweep stops, and no trial is
    to blame. What was written before is kept."""

    @classmethod
    def at(cls, path: object, why: object) -> ResultsUnwritable:
        return cls(
            f"cannot write {path}: {why}",
            "free the disk or fix the folder's permissions, then run the same command with --resume",
        )


class InputError(RayulError):
    """Bad input: a spec, a file, a row or a flag. Raised before anything is spent."""

    exit_code = 2
    code = "input"
