"""The driver's disk as workers on other nodes see it: models come from it once per node, adapters go to it.

A worker that sees the results folder (the same machine, a folder that all nodes share) writes its adapters there
itself. Others, where results are at a URL, hand them to an actor on the driver's node.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayul.cache import cache_folder
from rayul.errors import InputError, RayulError
from rayul.files import sync_files, write_text
from rayul.records import ADAPTERS, holds_model
from rayul.spec import Model, Spec

BLOCK = 32 * 2**20
"""Bytes of a model that travel at a time."""

DAMAGED = "damaged"
"""The folder within adapters/ of those that cannot be loaded any more."""

Files = Mapping[str, tuple[int, int]]
"""Of a folder: size and time of change by relative name."""


@dataclass(frozen=True)
class DriverDisk:
    """Sent to every worker. folder: of the results. mark: a file beside it, by whose content a worker knows that it
    sees the driver's disk. models: local model folders by path. server: the actor, None where Ray runs on this machine
    alone. uploads_adapters: whether a worker that does not see the folder may send its adapters."""

    folder: Path
    mark: Path
    word: str
    models: Mapping[str, Files]
    server: Any = None
    uploads_adapters: bool = False

    @property
    def is_seen(self) -> bool:
        """Whether this process sees the results folder, and may write there."""
        if self.server is None:
            return True
        try:
            return self.mark.read_text() == self.word and os.access(self.mark.parent, os.W_OK)
        except OSError:
            return False

    def with_models(self, spec: Spec) -> Spec:
        """The spec with its models where this node has them: where the driver has them, or fetched into the cache."""
        update: dict[str, Any] = {"model": self._here(spec.model)}
        if spec.oracle is not None:
            update["oracle"] = self._here(spec.oracle)
        return spec.model_copy(update=update)

    def _here(self, model: Model) -> Model:
        tokenizer = None if model.tokenizer is None else self._model(model.tokenizer)
        return model.model_copy(update={"path": self._model(model.path), "tokenizer": tokenizer})

    def _model(self, path: str) -> str:
        if self.server is None or path not in self.models or _files(Path(path).expanduser()) == self.models[path]:
            return path
        # Times are part of the name: weights that were trained again have the same sizes.
        name = sha256(repr((path, sorted(self.models[path].items()))).encode()).hexdigest()[:16]
        folder = cache_folder() / "models" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # the first worker of a node fetches it, the others wait
            if not folder.exists():
                partial = folder.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                _fetch(self.server.read, path, self.models[path], partial)
                partial.rename(folder)
        return str(folder)

    def adapters(self) -> Path:
        """The results folder, or on a node that does not see it a folder of this process to `send` adapters from.

        Raises RayulError where adapters can be brought neither way.
        """
        if self.is_seen:
            return self.folder
        if not self.uploads_adapters:
            raise RayulError(unseen(self.folder, [_here()]), UNSEEN_HINT)
        return Path(tempfile.mkdtemp(prefix="rayul-"))

    def send(self, adapter: Path) -> None:
        """Bring an adapter's folder to the results; returns when it is on the driver's disk."""
        if adapter.parent != self.folder / ADAPTERS:
            word = uuid.uuid4().hex
            for file, (size, _) in _files(adapter).items():
                with open(adapter / file, "rb") as source:
                    for offset in range(0, max(1, size), BLOCK):  # an empty file is one empty block
                        ray.get(self.server.write.remote(adapter.name, word, file, offset, source.read(BLOCK)))
            ray.get(self.server.finish.remote(adapter.name, word))
            shutil.rmtree(adapter)

    def drop(self, adapter: Path) -> None:
        shutil.rmtree(adapter, ignore_errors=True)
        if adapter.parent != self.folder / ADAPTERS:
            ray.get(self.server.drop.remote(adapter.name))

    def set_aside(self, adapter: Path) -> Path:
        """Move an adapter of the results out of the way of those who read them; returns where it is then."""
        if adapter.parent == self.folder / ADAPTERS:
            return _set_aside(adapter)
        aside: Path = ray.get(self.server.set_aside.remote(adapter.name))
        return aside

    def get(self, adapter: Path) -> bool:
        """Make an adapter of the results available at this path; False where the results have none of that name."""
        if adapter.parent != self.folder / ADAPTERS:
            adapter.mkdir(parents=True)
            files = ray.get(self.server.files.remote(adapter.name))
            _fetch(self.server.read_adapter, adapter.name, files, adapter)
        return holds_model(adapter)


@contextmanager
def served(folder: Path, spec: Spec, *, remote: bool, uploads_adapters: bool = False) -> Iterator[DriverDisk]:
    """The disk of this driver for its workers while the block runs. remote: whether there may be other nodes."""
    folder = folder.absolute()
    mark, word = folder.parent / f".{folder.name}.driver", uuid.uuid4().hex
    if not remote:
        yield DriverDisk(folder, mark, word, {})
        return
    named = [model for model in (spec.model, spec.oracle) if model is not None]
    paths = [path for model in named for path in (model.path, model.tokenizer) if path is not None]
    models = {path: files for path in paths if (files := _files(Path(path).expanduser()))}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(_Server)
    server = actor.remote(folder, list(models))
    try:
        yield DriverDisk(folder, mark, word, models, server, uploads_adapters)
    finally:
        ray.kill(server)


@contextmanager
def marked(disk: DriverDisk) -> Iterator[None]:
    """Let workers know the driver's disk when they see it, while the block runs.

    Raises InputError where a node of the cluster sees no such folder, unless adapters may be sent.
    """
    if disk.server is None:
        yield
        return
    try:
        write_text(disk.mark, disk.word)
        if not disk.uploads_adapters and (blind := blind_nodes(disk)):
            raise InputError(unseen(disk.folder, blind), UNSEEN_HINT)
        yield
    finally:
        disk.mark.unlink(missing_ok=True)


UNSEEN_HINT = (
    "name a folder that all nodes share (--results /shared/...), or storage that adapters are copied to "
    "(--results s3://bucket/path, gs://..., file:///...)"
)


def unseen(folder: Path, nodes: Sequence[str]) -> str:
    return f"{folder} is on the driver's disk and cannot be written to from {', '.join(nodes)}"


def blind_nodes(disk: DriverDisk) -> list[str]:
    """Addresses of the nodes that do not see the results folder, asked with a task on each."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    probe = ray.remote(num_cpus=0)(_sees)
    pending = [
        probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=True)).remote(disk)
        for n in nodes
    ]
    return sorted({address for address, sees in ray.get(pending) if not sees})


def _sees(disk: DriverDisk) -> tuple[str, bool]:
    return _here(), disk.is_seen


def _here() -> str:
    address: str = ray.util.get_node_ip_address()
    return address


class _Server:
    """On the driver's node. It reads the models that it was told of, and writes within `folder`/adapters only."""

    def __init__(self, folder: Path, models: Sequence[str]) -> None:
        self.place, self.models = folder / ADAPTERS, {path: Path(path).expanduser() for path in models}
        self.blocks_read = 0

    def read(self, model: str, file: str, offset: int) -> bytes:
        self.blocks_read += 1
        return _block(_within(self.models[model], file), offset)

    def read_adapter(self, adapter: str, file: str, offset: int) -> bytes:
        return _block(_within(self._adapter(adapter), file), offset)

    def write(self, adapter: str, word: str, file: str, offset: int, block: bytes) -> None:
        """A block of a file of an adapter under way, which `word` tells from others of its name. May be repeated."""
        path = _within(self._under_way(adapter, word), file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "r+b" if path.exists() else "wb") as target:
            target.seek(offset)
            target.write(block)

    def finish(self, adapter: str, word: str) -> None:
        """It is here in whole. May be repeated."""
        if (arrived := self._under_way(adapter, word)).exists():
            sync_files(arrived)
            shutil.rmtree(self._adapter(adapter), ignore_errors=True)
            arrived.rename(self._adapter(adapter))

    def files(self, adapter: str) -> Files:
        return _files(self._adapter(adapter))

    def drop(self, adapter: str) -> None:
        shutil.rmtree(self._adapter(adapter), ignore_errors=True)

    def set_aside(self, adapter: str) -> Path:
        return _set_aside(self._adapter(adapter))

    def _under_way(self, adapter: str, word: str) -> Path:
        return self._adapter(f"{adapter}.{word}.tmp")

    def _adapter(self, name: str) -> Path:
        if not re.fullmatch(r"\w+-[\w.+-]+", name):
            raise ValueError(f"{name!r} names no adapter")
        return self.place / name


def _set_aside(adapter: Path) -> Path:
    aside = adapter.parent / DAMAGED / adapter.name
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    return adapter.rename(aside)


def _fetch(read: Any, name: str, files: Files, folder: Path) -> None:
    """A model or an adapter of the driver's, block by block. read: the server's method for it."""
    for file, (size, _) in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        with open(folder / file, "wb") as target:
            for offset in range(0, size, BLOCK):
                target.write(ray.get(read.remote(name, file, offset)))


def _block(path: Path, offset: int) -> bytes:
    with open(path, "rb") as source:
        source.seek(offset)
        return source.read(BLOCK)


def _within(folder: Path, name: str) -> Path:
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ValueError(f"{name!r} is not within the folder")
    return path


def _files(folder: Path) -> Files:
    """Of every file in a folder; empty where there is none."""
    if not folder.is_dir():
        return {}
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {str(path.relative_to(folder)): (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}
