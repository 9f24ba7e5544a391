"""Ray's token: whoever has it, or reaches a cluster without one, runs code as its user.

Ray 2.60 asks for a token where RAY_AUTH_MODE=token, takes it from RAY_AUTH_TOKEN, from the file that
RAY_AUTH_TOKEN_PATH names, or from ~/.ray/auth_token, and writes that file for everyone to read. So a Ray of our own has
a token of its own in a private folder, and a cluster is asked first whether it wants one.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ray._private import services
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from rayul.errors import InputError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"

HOW_TO_TAKE = (
    "on its head run `ray get-auth-token`; keep the token in ~/.ray/auth_token with mode 0600, or name its file in "
    f"{TOKEN_PATH}"
)


def shared_token() -> Path:
    """Where Ray keeps the token of this user's clusters."""
    return Path.home() / ".ray" / "auth_token"


@contextmanager
def own_token(folder: Path) -> Iterator[None]:
    """Authentication for a Ray that is started and stopped in the block: a new token, kept in `folder`. A mode or token
    that the user chose is left alone."""
    narrow()
    if any(name in os.environ for name in (MODE, TOKEN, TOKEN_PATH)):
        yield
        return
    path = folder / "auth_token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    with _environment({MODE: "token", TOKEN_PATH: str(path)}):
        yield


@contextmanager
def authenticated(address: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Authentication for a connection to the running cluster at `address` while the block runs: the token that is
    there, where the cluster asks for one; else `warn` hears that it does not.

    Raises InputError where the cluster asks for a token and there is none, or another one; ConnectionError and
    ValueError where "auto" finds no cluster or the address is none.
    """
    narrow()
    place = services.canonicalize_bootstrap_address_or_die(address)
    with _environment({MODE: "disabled"}):
        is_open = _lets_in(place)
    if is_open:
        warn(
            f"the Ray cluster at {place} asks for no token: everyone who can reach it can run code as its user; start "
            "its nodes with RAY_AUTH_MODE=token (cluster/README.md)"
        )
        yield
        return
    with _environment({MODE: "token"}):
        held = _token_place()
        if held is None:
            raise InputError(f"the Ray cluster at {place} asks for a token, and there is none here", HOW_TO_TAKE)
        if not _lets_in(place):
            raise InputError(f"the Ray cluster at {place} has another token than {held}", HOW_TO_TAKE)
        yield


def narrow() -> None:
    """Ray's folder and the token in it become this user's alone: Ray makes them for everyone to read."""
    for path, mode in ((shared_token().parent, 0o700), (shared_token(), 0o600)):
        with suppress(FileNotFoundError, PermissionError):  # of another user's home: not ours to change
            path.chmod(mode)


def _lets_in(place: str) -> bool:
    with _without_warnings():
        try:
            GcsClient(address=place)
        except AuthenticationError:
            return False
    return True


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ray's C++ writes its warnings to the descriptor itself: being refused is an answer here."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _token_place() -> str | None:
    """Where the token is that Ray will use, in words; None where there is none."""
    if os.environ.get(TOKEN):
        return f"{TOKEN} has"
    path = os.environ.get(TOKEN_PATH) or str(shared_token())
    return f"{path} has" if Path(path).is_file() else None


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Ray's settings for the block, in this process and those that it starts."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    _read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Ray reads mode and token once per process."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
