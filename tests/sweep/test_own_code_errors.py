"""What a loss of the user's own raises while `plan` measures it, told by its place in the file."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from ray.exceptions import RayTaskError

from rayul.sweep.losses import of_own_code
from rayul.unlearn.own import own_function

CODE = {"./my_loss.py": "def mine(forget, retain, idk):\n    return forget.lopg.mean()\n"}


def raised(function: Callable[..., object]) -> RayTaskError:
    """As a process of Ray's reports it."""
    try:
        function(object(), None, None)
    except Exception as error:
        return RayTaskError("_cost", traceback.format_exc(), error)
    raise AssertionError("nothing was raised")


def test_the_line_and_the_reason_are_named() -> None:
    told = of_own_code(raised(own_function("./my_loss.py:mine", CODE)), CODE)
    assert told is not None
    assert told.message == "./my_loss.py:2, in mine: AttributeError: 'object' object has no attribute 'lopg'"


def test_what_is_raised_elsewhere_is_not_laid_to_it() -> None:
    def elsewhere(*_: object) -> object:
        raise ValueError("no")

    assert of_own_code(raised(elsewhere), CODE) is None
    assert of_own_code(raised(elsewhere), {}) is None
