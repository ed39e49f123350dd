"""Reads submissions from files, folders and zips that nobody vouches for.

Nothing here follows a link, opens a device, blocks on a pipe, writes to disk or reads more
than it was told to. What cannot be read is told apart in two ways: `UnusableFile` is one
submission that cannot be graded, `Refused` a whole folder or archive that is left alone.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_SKIPPED_FOLDERS = frozenset({"__pycache__", "__MACOSX", "node_modules", "venv", "site-packages"})
_TOOL_FOLDERS = frozenset({".git", ".hg", ".svn", ".venv", ".idea", ".vscode", ".ipynb_checkpoints", ".pytest_cache"})
_APPLE_DOUBLE = "._"  # resource forks that macOS leaves beside each file
_CHUNK_BYTES = 1 << 16


class UnusableFile(Exception):
    """One file that cannot be read as a submission.

    Attributes:
        advice: what to do about it.
        size_bytes: its size where it is known, else 0.
    """

    def __init__(self, problem: str, advice: str, size_bytes: int = 0) -> None:
        super().__init__(problem)
        self.advice = advice
        self.size_bytes = size_bytes


class Refused(Exception):
    """A folder or an archive that is left alone; says why."""


@dataclass(frozen=True)
class IntakeLimits:
    """How much is read before it is refused."""

    submission_bytes: int
    files: int
    archive_bytes: int
    archive_entries: int
    archive_uncompressed_bytes: int


@dataclass(frozen=True)
class Item:
    """One submission of a batch; `load` raises UnusableFile."""

    name: str
    load: Callable[[], bytes]


@dataclass(frozen=True)
class Collection:
    """What the paths of a batch held, and what was left alone with the reason."""

    items: tuple[Item, ...]
    refused: tuple[tuple[str, str], ...]
    passed_over: tuple[str, ...] = ()  # members of zips that are no programs
    not_searched: tuple[tuple[str, str], ...] = ()  # links to folders and zips in folders, with the reason
    unpacked_bytes: int = 0  # of zips


@dataclass(frozen=True)
class _Found:
    """An item before its name is settled: `names` from the shortest to the most exact."""

    names: tuple[str, ...]
    load: Callable[[], bytes]


def read_regular(path: Path, max_bytes: int, what: str = "submission") -> bytes:
    """The bytes of a regular file of at most `max_bytes`.

    Raises:
        UnusableFile: a link, a folder, a device, a pipe; unreadable; too large.
        FileNotFoundError: nothing is there.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        _require_regular(os.lstat(path).st_mode)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        advice = "Check its name, its rights and those of its folder, and try again."
        raise UnusableFile(f"unreadable: {error.strerror}", advice) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _require_regular(status.st_mode)  # it may have been swapped since
        try:
            data = b"" if status.st_size > max_bytes else file.read(max_bytes + 1)
        except OSError as error:
            raise UnusableFile(f"unreadable: {error.strerror}", "Check the disk and try again.") from error
    size = max(status.st_size, len(data))
    if size > max_bytes:
        raise _too_large(what, size, max_bytes)
    return data


def _too_large(what: str, size: int, max_bytes: int) -> UnusableFile:
    return UnusableFile(
        f"too large for a {what}: {size:,} bytes, and at most {max_bytes:,} are taken",
        "Hand in the program alone, without data or generated code.",
        size,
    )


def _require_regular(mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise UnusableFile("a symbolic link, and links are not followed", "Give the file that it points to.")
    if stat.S_ISDIR(mode):
        raise UnusableFile("a folder, not a file", "Give one file, or use `assay batch` for a folder.")
    if not stat.S_ISREG(mode):
        raise UnusableFile("a device, pipe or socket, not a regular file", "Save it as a file first.")


def printable_name(name: str) -> str:
    """A file name as text that any JSON can hold; undecodable bytes are spelt out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def collect(paths: Sequence[Path], limits: IntakeLimits) -> Collection:
    """Every submission below `paths`, under names that differ.

    A name is the base name where that is unique in the batch, else the path below the
    given folder or zip, else that with the folder's or zip's own name before it.

    Raises:
        Refused: more files than `limits.files`.
    """
    found: dict[str, _Found] = {}
    refused: list[tuple[str, str]] = []
    not_searched: dict[str, tuple[str, str]] = {}
    unpacked = _Unpacked(limits.archive_uncompressed_bytes)
    for path in paths:
        try:
            for identity, item in _expand(path, limits, refused, not_searched, unpacked):
                found.setdefault(identity, item)
                if len(found) > limits.files:
                    raise Refused(f"more than {limits.files:,} submissions in one batch")
        except _RefusedArchive as error:
            refused.append((printable_name(str(path)), str(error)))
    names = distinct_names([item.names for item in found.values()])
    items = (Item(name, item.load) for name, item in zip(names, found.values(), strict=True))
    given = {_identity(path) for path in paths}
    return Collection(
        tuple(items),
        tuple(refused),
        tuple(unpacked.passed_over),
        tuple(note for identity, note in not_searched.items() if identity not in given),
        unpacked.used_bytes,
    )


def distinct_names(candidates: Sequence[tuple[str, ...]]) -> list[str]:
    """One name for each, the shortest that no other has; a number is added as a last resort."""
    level = [0] * len(candidates)
    while True:
        names = [options[min(at, len(options) - 1)] for options, at in zip(candidates, level, strict=True)]
        count = Counter(names)
        longer = [i for i, options in enumerate(candidates) if count[names[i]] > 1 and level[i] + 1 < len(options)]
        if not longer:
            return _number_the_rest(names)
        for i in longer:
            level[i] += 1


def _number_the_rest(names: list[str]) -> list[str]:
    taken = set(names)
    seen: set[str] = set()
    following: dict[str, int] = {}  # each name counts on from where it was: ten thousand may be alike
    result = []
    for name in names:
        unique, number = name, following.get(name, 2)
        while unique in seen or (unique != name and unique in taken):
            unique, number = f"{name} ({number})", number + 1
        following[name] = number
        seen.add(unique)
        result.append(unique)
    return result


def _expand(
    path: Path,
    limits: IntakeLimits,
    refused: list[tuple[str, str]],
    not_searched: dict[str, tuple[str, str]],
    unpacked: _Unpacked,
) -> Iterator[tuple[str, _Found]]:
    """The submissions of one path of the command line, each with what tells it from the others."""
    if os.path.isdir(path):  # Path.is_dir raises where a folder above may not be entered
        yield from _folder(path, limits, refused, not_searched)
    elif _is_zip(path.name) and not path.is_symlink():
        yield from list(_archive(path, limits, unpacked))  # all of it or, where it is refused, nothing
    else:
        yield _identity(path), _file(path, path.parent, limits)


def _identity(path: Path) -> str:
    return os.path.join(os.path.realpath(path.parent), path.name)


def _file(path: Path, root: Path, limits: IntakeLimits) -> _Found:
    def load() -> bytes:
        try:
            return read_regular(path, limits.submission_bytes)
        except FileNotFoundError as error:
            raise UnusableFile("gone since the batch began", "Put it back and run the batch again.") from error

    return _Found(_names(root.resolve().name, path.relative_to(root).as_posix()), load)


def _names(root: str, relative: str) -> tuple[str, ...]:
    base, below, full = PurePosixPath(relative).name, relative, f"{root}/{relative}"
    return tuple(printable_name(name) for name in (base, below, full))


def _folder(
    root: Path, limits: IntakeLimits, refused: list[tuple[str, str]], not_searched: dict[str, tuple[str, str]]
) -> Iterator[tuple[str, _Found]]:
    def note(error: OSError) -> None:
        refused.append((printable_name(str(error.filename)), f"cannot be listed: {error.strerror}"))

    for folder, folders, files in os.walk(root, onerror=note):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SKIPPED_FOLDERS)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        zips = [name for name in sorted(files) if _is_zip(name) and not name.startswith(_APPLE_DOUBLE)]
        for names, why in ((links, "links to folders are not followed"), (zips, "zips in folders are not opened")):
            for path in (Path(folder, name) for name in names):
                not_searched[_identity(path)] = (printable_name(str(path)), f"{why}; give its own path")
        for name in sorted(filter(_is_submission, files)):
            path = Path(folder, name)
            yield _identity(path), _file(path, root, limits)


def _is_zip(name: str) -> bool:
    return name.casefold().endswith(".zip")


def _is_submission(name: str) -> bool:
    return name.casefold().endswith(".py") and not name.startswith(_APPLE_DOUBLE)


# --- zips ------------------------------------------------------------------------------


class _RefusedArchive(Exception):
    """This archive is left alone; the batch goes on."""


@dataclass
class _Unpacked:
    """What all zips of a batch together have taken."""

    most_bytes: int
    used_bytes: int = 0
    passed_over: list[str] = field(default_factory=list)


_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
)
# Python bounds what a read of a member unpacks for these two alone.
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def _archive(path: Path, limits: IntakeLimits, unpacked: _Unpacked) -> Iterator[tuple[str, _Found]]:
    """The `.py` members of a zip, read into memory; nothing is unpacked to disk.

    Raises:
        _RefusedArchive: damaged, encrypted, too many members or bytes, or a member that
            points outside the archive.
    """
    try:
        _require_regular(os.lstat(path).st_mode)
        if os.path.getsize(path) > limits.archive_bytes:
            raise _RefusedArchive(f"larger than {limits.archive_bytes:,} bytes")
        with zipfile.ZipFile(path) as archive:
            yield from _members(archive, path, limits, unpacked)
    except UnusableFile as error:
        raise _RefusedArchive(str(error)) from error
    except _DAMAGED as error:
        raise _RefusedArchive(f"not a zip that can be read: {error}") from error


def _members(
    archive: zipfile.ZipFile, path: Path, limits: IntakeLimits, unpacked: _Unpacked
) -> Iterator[tuple[str, _Found]]:
    entries = archive.infolist()
    if len(entries) > limits.archive_entries:
        raise _RefusedArchive(f"{len(entries):,} members, and at most {limits.archive_entries:,} are taken")
    for entry in entries:
        _require_harmless(entry)
    for index, entry in enumerate(entries):
        if entry.is_dir():
            continue
        if not _is_wanted_member(entry.filename):
            if not _is_litter(entry.filename):
                unpacked.passed_over.append(printable_name(entry.filename))
            continue
        load, used = _read_member(archive, entry, limits.submission_bytes)
        unpacked.used_bytes += used
        if unpacked.used_bytes > unpacked.most_bytes:
            raise _RefusedArchive(f"unpacks to more than {limits.archive_uncompressed_bytes:,} bytes")
        yield f"{_identity(path)}\0{index}", _Found(_names(path.name, entry.filename), load)


def _require_harmless(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    shown = printable_name(name)
    if name.startswith("/") or "\\" in name or "\0" in name or name[1:2] == ":":
        raise _RefusedArchive(f"the member {shown!r} has an absolute or malformed name")
    if ".." in name.split("/"):
        raise _RefusedArchive(f"the member {shown!r} points outside the archive")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise _RefusedArchive(f"the member {shown!r} is a symbolic link")
    if entry.flag_bits & 0x1:
        raise _RefusedArchive("encrypted; unpack it and give the folder")
    if entry.compress_type not in _PACKINGS and not entry.is_dir():
        raise _RefusedArchive(f"the member {shown!r} is packed in a way that is not read here; make a plain zip")


def _is_wanted_member(name: str) -> bool:
    *folders, base = name.split("/")
    skipped = any(folder.startswith(".") or folder in _SKIPPED_FOLDERS for folder in folders)
    return _is_submission(base) and not skipped


def _is_litter(name: str) -> bool:
    """What operating systems and editors leave beside files; nobody handed it in."""
    *folders, base = name.split("/")
    return base.startswith(".") or any(folder in _SKIPPED_FOLDERS | _TOOL_FOLDERS for folder in folders)


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, max_bytes: int) -> tuple[Callable[[], bytes], int]:
    """How to load one member, and how many bytes were unpacked to find that out."""
    data = bytearray()
    try:
        with archive.open(entry) as member:
            while len(data) <= max_bytes and (chunk := member.read(min(_CHUNK_BYTES, max_bytes + 1 - len(data)))):
                data += chunk
    except _DAMAGED as error:
        return _raising(UnusableFile(f"damaged in its archive: {error}", "Make the zip again.")), len(data)
    if len(data) > max_bytes:
        return _raising(_too_large("submission", max(entry.file_size, len(data)), max_bytes)), len(data)
    source = bytes(data)
    return lambda: source, len(source)


def _raising(error: UnusableFile) -> Callable[[], bytes]:
    def load() -> bytes:
        raise error

    return load
