"""Results at a URL (s3://, gs://, file://): a work folder on this machine, and what keeps the two the same.

Object stores cannot append, and a journal is appended to row by row. So a sweep writes to its work folder, and what
changed there is copied to the URL every few seconds and at the end. Credentials and endpoints come from where the
cloud's own tools take them (environment, profile, instance role), never from a spec.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from rayul.background import beside
from rayul.cache import cache_folder
from rayul.errors import InputError, RayulError
from rayul.files import whole_file
from rayul.records import CHECKPOINTS, JOURNAL, SPEC, STUDY
from rayul.records.inside import RECORD_BYTES, is_sweeps
from rayul.records.manifest import MANIFEST

EVERY = 5.0
"""Seconds between two copies. After one that takes long it is ten times its own time, so that journals that have grown
large take a tenth of a driver at most; but no more than a third of SILENT."""

SILENT = 180.0
"""Seconds after which the mark of a driver that no longer renews it counts as that of a dead one."""

BLOCK = 32 * 2**20
"""Bytes of a file that are in memory at a time: with `update: full` it is a whole model."""

FIRST_ANSWER = 60.0
"""Seconds that a store has for its first answer. Google's client would try for fifteen minutes."""

STALLED = 15.0
"""Seconds without a byte after which S3's client tries once more, of three times; by itself it would wait for ever."""

OWNER_BYTES = 10_000

OWNER = "driver.json"
"""Beside the results at the URL while a driver writes to them: its machine and process."""


def is_url(place: str | Path) -> bool:
    return "://" in str(place)


def joined(place: str, name: str) -> str:
    """A name within a URL or folder; the options of a URL (?endpoint_override=...) stay at its end."""
    head, mark, options = place.partition("?") if is_url(place) else (place, "", "")
    return f"{head.rstrip('/')}/{name}{mark}{options}"


class Storage:
    """Results at `url`, worked on in `folder`.

    Raises InputError for a URL that cannot be used: its scheme, its bucket, its credentials.
    """

    def __init__(self, url: str) -> None:
        if "@" in urlsplit(url).netloc:  # s3://key:secret@bucket: it would stand in every record of the sweep
            raise InputError(
                f"{url.partition('://')[0]}://...: a URL of results has no credentials in it",
                "set them in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
            )
        self.url = url
        name = url.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
        if name in (".", ".."):
            raise InputError(f"{url} ends in {name}", "give the URL of one sweep, as `rayul sweep` printed it")
        self.folder = cache_folder() / "results" / sha256(url.encode()).hexdigest()[:12] / name
        self.there: dict[str, Any] = {}  # what is at the URL: (size, mtime_ns) here when it was copied, or None
        with self._reaching(InputError):
            self.filesystem, self.root = _answered(partial(_reached, url))

    # --- from there to here ---------------------------------------------------------------------------------------

    def fetch(self) -> None:
        """Bring the work folder up to what is at the URL, unless it is ahead of it (this machine wrote it last).

        Only files that a sweep has (`inside.NAMES`), where there is a sweep: any bucket may be named here, and what it
        holds goes into this machine's cache. Raises InputError where there is none, and where both went on apart from
        each other.
        """
        with self._reaching(RayulError):
            found = self._listed()
            if found and not {SPEC, JOURNAL, STUDY, MANIFEST} & set(found):
                raise InputError(
                    f"{self.url} holds no sweep ({SPEC}, {JOURNAL})",
                    "give the URL of one sweep, as `rayul sweep` printed it",
                )
            here = _whole_lines(_read(self.folder / JOURNAL))
            there = _whole_lines(self._read(JOURNAL)) if JOURNAL in found else b""
            if here.startswith(there) and (here or not found):
                self.there = dict.fromkeys(found)
                return
            if not there.startswith(here):
                raise InputError(
                    f"{self.url} and the work folder {self.folder} hold different runs of this sweep",
                    "delete the one that you do not want",
                )
            shutil.rmtree(self.folder, ignore_errors=True)
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(self._download, found))

    def _download(self, name: str) -> None:
        """For this user's eyes only: what was private there is private here."""
        target = self.folder / name
        for folder in reversed([target.parent, *target.parent.parents]):
            folder.mkdir(mode=0o700, exist_ok=True)
        with whole_file(target) as temporary:
            temporary.chmod(0o600)
            with self.filesystem.open_input_stream(f"{self.root}/{name}") as source, open(temporary, "wb") as copy:
                shutil.copyfileobj(source, copy, BLOCK)
        self.there[name] = _stamp(target)

    # --- from here to there ---------------------------------------------------------------------------------------

    def push(self) -> None:
        """Copy what changed since the last time, and remove there what is gone here.

        Whatever is at the URL at any moment can be resumed: the journals are read first, the study before the rows,
        and written last, the rows before the study. So an adapter is there before its row, a row before its trial's
        ending (which stands behind it in the same file), and an ending before Optuna was told of it. The first
        run.json comes before all else, as in `rayul.sweep.folder.begin`; later ones are read before the rows and
        written after them, because they say how many rows there are.
        """
        names = (MANIFEST, STUDY, JOURNAL)
        journals = {name: (_stamp(self.folder / name), _read(self.folder / name)) for name in names}
        stamps = {
            name: _stamp(path)
            for path in self.folder.rglob("*")
            if path.is_file() and _is_kept(name := path.relative_to(self.folder).as_posix())
        }
        stamps |= {name: stamp for name, (stamp, _) in journals.items() if stamp}
        with self._reaching(RayulError), ThreadPoolExecutor(8) as pool:
            changed = [name for name, stamp in stamps.items() if self.there.get(name) != stamp]
            if MANIFEST in changed and MANIFEST not in self.there:
                self._put(MANIFEST, *journals[MANIFEST])
            others = set(changed) - set(journals)
            list(pool.map(lambda name: self._upload(name, stamps[name]), others))
            for name in (JOURNAL, STUDY, MANIFEST):
                if name in changed and self.there.get(name) != stamps[name]:
                    self._put(name, *journals[name])
            for name in set(self.there) - set(stamps) - {OWNER}:
                with suppress(FileNotFoundError):
                    self.filesystem.delete_file(f"{self.root}/{name}")
                del self.there[name]

    def _put(self, name: str, stamp: Any, content: bytes) -> None:
        self._write(name, [content])
        self.there[name] = stamp

    def _upload(self, name: str, stamp: Any) -> None:
        try:
            source = open(self.folder / name, "rb")  # noqa: SIM115
        except FileNotFoundError:  # an adapter that has left the front meanwhile
            return
        with source:
            self._write(name, iter(partial(source.read, BLOCK), b""))
        self.there[name] = stamp

    def _write(self, name: str, blocks: Iterable[bytes]) -> None:
        path = f"{self.root}/{name}"
        if self.filesystem.type_name != "local":  # an object appears whole, when its stream is closed
            with self.filesystem.open_output_stream(path) as stream:
                for block in blocks:
                    stream.write(block)
            return
        self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with whole_file(Path(path)) as temporary, open(temporary, "wb") as file:
            for block in blocks:
                file.write(block)

    # --- while a driver runs --------------------------------------------------------------------------------------

    @contextmanager
    def synced(self, warn: Callable[[str], None]) -> Iterator[None]:
        """Hold the URL for this driver and copy in the background while the block runs, once more at its end.

        A copy that fails is told once through `warn` and tried again; one that fails at the end raises RayulError.
        Raises RayulError where another machine's driver has written within the last SILENT seconds.
        """
        me = _me()
        self._claim(me)
        try:
            with beside(partial(self._keep_pushing, me, warn)):
                yield
        finally:
            if self.folder.exists():
                self._push_last()
            with suppress(OSError):
                self.filesystem.delete_file(f"{self.root}/{OWNER}")

    def _push_last(self) -> None:
        try:
            self.push()
        except RayulError as error:
            raise RayulError(
                f"{error.message}; everything is in {self.folder}", "the same command with --resume copies it again"
            ) from error

    def _keep_pushing(self, me: bytes, warn: Callable[[str], None], over: threading.Event) -> None:
        pause, failed = EVERY, False
        while not over.wait(pause):
            began = time.monotonic()
            try:
                self._write(OWNER, [me])
                self.push()
                failed = False
            except (OSError, pa.ArrowException, RayulError) as error:
                if not failed:
                    warn(f"{error}; the sweep goes on in {self.folder}, and copies when it can")
                failed = True
            pause = min(max(EVERY, 10 * (time.monotonic() - began)), SILENT / 3)

    def _claim(self, me: bytes) -> None:
        owner = self.owner()
        if owner is not None and owner["machine"] != socket.gethostname():
            raise RayulError(
                f"another sweep is writing to {self.url}: {owner['machine']}, {owner['silent']:.0f} s ago",
                f"wait for it; if it is dead, in {SILENT:.0f} s its mark no longer counts",
            )
        with self._reaching(RayulError):
            self._write(OWNER, [me])

    def owner(self) -> dict[str, Any] | None:
        """The driver that writes to the URL now: machine, process, seconds since it last did; None where none does.

        Both times are the storage's own: the clocks of two machines need not agree.
        """
        with self._reaching(RayulError):
            mark = self.filesystem.get_file_info(f"{self.root}/{OWNER}")
            if mark.type != fs.FileType.File:
                return None
            if mark.size > OWNER_BYTES:
                raise InputError(f"{self.url}/{OWNER} is not a driver's mark", "remove it")
            owner = self._mark()
            self._write(".clock", [])
            now = self.filesystem.get_file_info(f"{self.root}/.clock")
            self.filesystem.delete_file(f"{self.root}/.clock")
        owner["silent"] = (now.mtime - mark.mtime).total_seconds()
        return owner if owner["silent"] < SILENT else None

    def _mark(self) -> dict[str, Any]:
        try:
            mark = json.loads(self._read(OWNER))
            return {"machine": str(mark["machine"]), "process": int(mark["process"])}
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{self.url}/{OWNER} is not a driver's mark", "remove it") from None

    # --- reaching it ----------------------------------------------------------------------------------------------

    def _listed(self) -> list[str]:
        """Paths of a sweep's files at the URL, without links. Raises InputError where they are too large."""
        infos = self.filesystem.get_file_info(fs.FileSelector(self.root, recursive=True, allow_not_found=True))
        files = {info.path[len(self.root) + 1 :]: info for info in infos if info.type == fs.FileType.File}
        names = [name for name in files if is_sweeps(name) and not self._is_link(name)]
        large = [name for name in names if "/" not in name and files[name].size > RECORD_BYTES]
        if large:
            raise InputError(
                f"{self.url}: {large[0]} has {files[large[0]].size / 2**30:.1f} GiB, more than any record",
                "remove it there",
            )
        needed, free = sum(files[name].size for name in names), shutil.disk_usage(_existing(self.folder)).free
        if needed > free:
            raise RayulError(
                f"{self.url} holds {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free for {self.folder}",
                "free the disk, or set RAYUL_CACHE to a larger one",
            )
        return names

    def _is_link(self, name: str) -> bool:
        """On a local file system: whether the path leads through a link."""
        if self.filesystem.type_name != "local":
            return False
        parts = Path(name).parts
        return any(Path(self.root, *parts[: i + 1]).is_symlink() for i in range(len(parts)))

    def _read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(f"{self.root}/{name}") as stream:
            content: bytes = stream.read()
        return content

    @contextmanager
    def _reaching(self, kind: type[RayulError]) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise kind(
                f"{self.url} cannot be used: {str(error).splitlines()[0]}",
                "check the network, scheme, bucket and credentials (AWS_..., GOOGLE_APPLICATION_CREDENTIALS; another "
                "endpoint: AWS_ENDPOINT_URL)",
            ) from error


@contextmanager
def local(place: str | Path, *, write: bool = False) -> Iterator[Path]:
    """The folder of results that may be at a URL: fetched before the block, and with `write` copied back after it."""
    if not is_url(place):
        yield Path(place)
        return
    storage = Storage(str(place))
    storage.fetch()
    if not storage.folder.exists():
        raise InputError(f"{storage.url}: nothing is there", "give the URL of one sweep, as `rayul sweep` printed it")
    yield storage.folder
    if write:
        storage.push()


def _reached(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URL and the path in it, where it has answered."""
    filesystem, path = fs.FileSystem.from_uri(url)
    if isinstance(filesystem, fs.S3FileSystem):  # a URL cannot say this
        _, (options,) = filesystem.__reduce__()
        filesystem = fs.S3FileSystem(**options | {"connect_timeout": STALLED, "request_timeout": STALLED})
    root = path.rstrip("/")
    filesystem.get_file_info(root)
    return filesystem, root


def _answered(call: Callable[[], Any]) -> Any:
    """What a call of Arrow's returns or raises, TimeoutError after FIRST_ANSWER. In a thread, because Python takes no
    signals while Arrow waits."""
    outcome: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # raised again below
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join(FIRST_ANSWER)
    except KeyboardInterrupt:
        atexit.unregister(fs.ensure_s3_finalized)  # it would wait for the answer
        raise
    if failed:
        raise failed[0]
    if not outcome:
        raise TimeoutError(f"no answer within {FIRST_ANSWER:.0f} s")
    return outcome[0]


def owned(url: str) -> bool:
    """Whether a driver writes to the results at the URL now."""
    return Storage(url).owner() is not None


def _is_kept(name: str) -> bool:
    """Not what is half written, nor the states of running trials: large, and worth minutes of one trial."""
    return not name.endswith((".tmp", ".lock")) and ".tmp/" not in name and not name.startswith(f"{CHECKPOINTS}/")


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _me() -> bytes:
    return json.dumps({"machine": socket.gethostname(), "process": os.getpid()}).encode()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return (stat.st_size, stat.st_mtime_ns)


def _whole_lines(journal: bytes) -> bytes:
    return journal[: journal.rfind(b"\n") + 1]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
