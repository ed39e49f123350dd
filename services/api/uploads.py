"""Reads programs from requests: one as JSON or a form's file, many as files, zips or JSON lines.

What is read is bounded before (`access`), by Werkzeug while it comes, and by `services.intake` when a
zip is opened. Names are never used as paths: a zip is kept under a name of ours.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

from flask import request
from pydantic import ValidationError
from werkzeug.datastructures import FileStorage

from grading.engine import unusable_reason
from services.api.models import (
    CohortForm,
    CohortGiven,
    CohortParameters,
    CohortSubmission,
    CohortSubmissions,
    RefusedFile,
    SubmissionForm,
    SubmissionGiven,
)
from services.api.problems import ApiProblem, invalid
from services.api.routing import JSON, Media, json_body, parse_json
from services.api.service import here
from services.intake import IntakeLimits, Refused, UnusableFile, collect, distinct_names, printable_name
from services.store import Candidate

FORM = "multipart/form-data"
ZIP = ("application/zip", "application/x-zip-compressed")
LINES = ("application/x-ndjson", "application/jsonl")
_DEFAULT_NAME = "submission.py"
_LONGEST_NAME = 200
_CHUNK_BYTES = 1 << 16
_BINARY = {"type": "string", "format": "binary"}

ONE_FORM = Media(
    FORM,
    {
        "type": "object",
        "required": ["file", "challenge"],
        "additionalProperties": False,
        "properties": {"file": _BINARY, **SubmissionForm.model_json_schema()["properties"]},
    },
)
_FILES = {
    "type": "array",
    "items": _BINARY,
    "minItems": 1,
    "description": "Programs (.py), zips of them, JSON lines (.jsonl).",
}
COHORT_FORM = Media(
    FORM,
    {
        "type": "object",
        "required": ["name", "challenge", "files"],
        "additionalProperties": False,
        "properties": {"files": _FILES, **CohortForm.model_json_schema()["properties"]},
    },
)
FILES_FORM = Media(
    FORM,
    {"type": "object", "required": ["files"], "additionalProperties": False, "properties": {"files": _FILES}},
)
ZIP_BODY = Media(ZIP[0], _BINARY)
LINES_BODY = Media(LINES[0], {"type": "string", "description": "One object a line: source, file_name, candidate."})


@dataclass(frozen=True)
class Program:
    """One program that came in, not judged yet."""

    file_name: str
    source: bytes
    candidate: Candidate | None = None
    container: str = ""  # name of the zip or the lines that it came in

    def names(self) -> tuple[str, ...]:
        """What it may be called, shortest first."""
        longer = (f"{self.container}/{self.file_name}"[-_LONGEST_NAME:],) if self.container else ()
        return (self.file_name, *longer)


@dataclass
class Batch:
    """Many programs, and what was left out with the reason."""

    programs: list[Program] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)
    unpacked_bytes: int = 0  # of zips: what one request may unpack is bounded over all of them

    def named_apart(self) -> Batch:
        """The same with names that differ, so that rows of an export do."""
        names = distinct_names([program.names() for program in self.programs])
        self.programs = [replace(program, file_name=name) for name, program in zip(names, self.programs, strict=True)]
        return self


# --- one -------------------------------------------------------------------------------


def one_program() -> tuple[str, str | None, Program]:
    """The challenge, the assessment and the program of a request with one submission.

    Raises:
        ApiProblem: no such form, too large, or nothing that could be a Python program.
    """
    if request.mimetype == FORM:
        form, file = _form_with_one_file()
        source = file.stream.read(here().settings.max_submission_bytes + 1)
        challenge, assessment = form.challenge, form.assessment_id
        program = Program(_clean_name(file.filename), source, form.record())
        pointer = "/file"
    elif request.mimetype == JSON:
        given = json_body(SubmissionGiven)
        candidate = given.candidate.record() if given.candidate else None
        challenge, assessment = given.challenge, given.assessment_id
        program = Program(given.file_name, given.source.encode(), candidate)
        pointer = "/source"
    else:
        raise ApiProblem(415, f"Send {JSON} or {FORM}.", "media-type")
    _require_size(program.source)
    reason = unusable_reason(program.source)
    if reason is not None:
        raise ApiProblem(422, f"This is no program: {reason}.", "unusable-file", [(pointer, reason)])
    return challenge, assessment, program


def _require_size(source: bytes) -> None:
    most = here().settings.max_submission_bytes
    if len(source) > most:
        raise ApiProblem(413, f"A submission has at most {most:,} bytes.", "too-large")


def _form_with_one_file() -> tuple[SubmissionForm, FileStorage]:
    files = request.files.getlist("file")
    if len(files) != 1 or len(list(request.files.items(multi=True))) != 1:
        raise ApiProblem(422, "Send exactly one file, as the part `file`.", "invalid-request", [("/file", "one file")])
    return _form(SubmissionForm), files[0]


def chosen_program() -> Program:
    """The one program of a form whose other fields are its page's own. Raises ApiProblem, in words for its reader."""
    files = request.files.getlist("file")
    if len(files) != 1 or not files[0].filename:
        raise ApiProblem(422, "Choose one file.")
    name = _clean_name(files[0].filename)
    if not name.casefold().endswith(".py"):
        raise ApiProblem(422, "Choose the program itself: its name ends in .py.")
    program = Program(name, files[0].stream.read(here().settings.max_submission_bytes + 1))
    _require_size(program.source)
    reason = unusable_reason(program.source)
    if reason is not None:
        raise ApiProblem(422, f"This is no program: {reason}.")
    return program


def _form(model: Any) -> Any:
    repeated = [name for name, values in request.form.lists() if len(values) > 1]
    if repeated:
        raise ApiProblem(422, "A part is given more than once.", "invalid-request", [(f"/{repeated[0]}", "twice")])
    try:
        return model.model_validate(request.form.to_dict())
    except ValidationError as error:
        raise invalid(error) from None


# --- many ------------------------------------------------------------------------------


def new_cohort(parameters: CohortParameters) -> tuple[CohortForm, Batch]:
    """Name, challenge and programs of a request that makes a cohort. Raises ApiProblem."""
    if request.mimetype == JSON:
        _bound_json()
        given = json_body(CohortGiven)
        return CohortForm(name=given.name, challenge=given.challenge), _from_json(given.submissions)
    if request.mimetype == FORM:
        return _form(CohortForm), _not_empty(_from_form())
    batch = _not_empty(_from_bare_body())
    try:
        return CohortForm.model_validate(parameters.model_dump(exclude_none=True)), batch
    except ValidationError as error:
        raise invalid(error, "query") from None


def _bound_json() -> None:
    """JSON is held whole while it is read, so less of it is taken than of a file."""
    most = here().settings.api_max_cohort_json_bytes
    if (request.content_length or 0) > most:
        raise ApiProblem(413, f"At most {most:,} bytes of JSON are taken; send files or JSON lines.", "too-large")
    request.max_content_length = min(most, request.max_content_length or most)


def more_programs() -> Batch:
    """The programs of a request that adds to a cohort. Raises ApiProblem."""
    if request.mimetype == JSON:
        _bound_json()
        return _from_json(json_body(CohortSubmissions).submissions)
    if request.mimetype == FORM:
        if request.form:
            name = next(iter(request.form))
            raise ApiProblem(422, "Only files are taken here.", "invalid-request", [(f"/{name}", "not a file")])
        return _not_empty(_from_form())
    return _not_empty(_from_bare_body())


def _not_empty(batch: Batch) -> Batch:
    """The same. Raises ApiProblem where no program came: whoever sends files means to hand some in."""
    if not batch.programs:
        errors = [(f"/{refused.name}", refused.reason) for refused in batch.refused]
        raise ApiProblem(422, "There is no program (.py) in what was sent.", "no-programs", errors[:_MOST_PASSED_OVER])
    return batch


def chosen_files() -> Batch:
    """The programs of a form whose other fields are its page's own. Raises ApiProblem."""
    return _from_form()


def _from_bare_body() -> Batch:
    if request.mimetype in ZIP:
        return _from_zip(request.stream)
    if request.mimetype in LINES:
        # Werkzeug's own stream, a RawIOBase, reads a line byte by byte.
        lines: Any = io.BufferedReader(cast(Any, request.stream), _CHUNK_BYTES)
        try:
            return _from_lines(lines).named_apart()
        finally:
            lines.detach()
    kinds = ", ".join((JSON, FORM, ZIP[0], LINES[0]))
    raise ApiProblem(415, f"Send one of {kinds}.", "media-type")


def _from_json(given: Iterable[CohortSubmission]) -> Batch:
    batch = Batch()
    for one in given:
        _add(batch, _program(one))
    return _bounded(batch).named_apart()


def _program(one: CohortSubmission) -> Program:
    return Program(one.file_name, one.source.encode(), one.candidate.record() if one.candidate else None)


def _from_form() -> Batch:
    batch = Batch()
    parts = list(request.files.items(multi=True))
    if not parts:
        raise ApiProblem(
            422, "Send at least one file, as parts called `files`.", "invalid-request", [("/files", "none")]
        )
    for name, file in parts:
        if name != "files":
            raise ApiProblem(422, "Files are parts called `files`.", "invalid-request", [(f"/{name[:50]}", "unknown")])
        _take_file(batch, file)
    return _bounded(batch).named_apart()


def _take_file(batch: Batch, file: FileStorage) -> None:
    shown = _clean_name(file.filename)
    kind = shown.casefold().rpartition(".")[2]
    if kind in ("zip", "jsonl", "ndjson"):
        try:
            found = _from_zip(file.stream, batch.unpacked_bytes) if kind == "zip" else _from_lines(file.stream)
        except ApiProblem as problem:
            problem.detail = f"{shown}: {problem.detail}"
            raise
        found.programs = [replace(program, container=shown) for program in found.programs]
    elif kind == "py":
        found = Batch()
        _add(found, Program(shown, file.stream.read(here().settings.max_submission_bytes + 1)))
    else:
        found = Batch(refused=[RefusedFile(name=shown, reason="neither .py nor .zip nor .jsonl")])
    batch.programs += found.programs
    batch.refused += found.refused
    batch.unpacked_bytes += found.unpacked_bytes
    _bounded(batch)


def _add(batch: Batch, program: Program) -> None:
    most = here().settings.max_submission_bytes
    if len(program.source) > most:
        reason = f"larger than {most:,} bytes"
        batch.refused.append(RefusedFile(name=program.file_name, reason=reason))
    else:
        batch.programs.append(program)


def _bounded(batch: Batch) -> Batch:
    most = here().settings.max_batch_files
    if len(batch.programs) + len(batch.refused) > most:
        raise ApiProblem(422, f"At most {most:,} submissions are taken at once.", "too-many")
    return batch


def _from_lines(stream: IO[bytes]) -> Batch:
    """JSON lines: one bad line refuses the whole, so that nobody is left out unseen."""
    batch = Batch()
    longest = here().settings.api_max_submission_request_bytes
    for number, line in enumerate(_lines(stream, longest), start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)  # as editors on Windows put it
        if not line.strip():
            continue
        try:
            _add(batch, _program(parse_json(CohortSubmission, line, f"/{number}")))
        except ApiProblem as problem:
            if problem.status == 400:
                raise ApiProblem(400, f"Line {number} is not JSON in UTF-8.", "not-json") from None
            raise
        _bounded(batch)
    return batch


def _lines(stream: IO[bytes], longest: int) -> Iterator[bytes]:
    while line := stream.readline(longest + 1):
        if len(line) > longest:
            raise ApiProblem(413, f"A line has at most {longest:,} bytes.", "too-large")
        yield line


# --- zips ------------------------------------------------------------------------------


def _from_zip(stream: IO[bytes], unpacked_bytes: int = 0) -> Batch:
    """The `.py` members of a zip; `unpacked_bytes` of what one request may unpack are used already."""
    settings = here().settings
    limits = IntakeLimits(
        submission_bytes=settings.max_submission_bytes,
        files=settings.max_batch_files,
        archive_bytes=min(settings.max_archive_bytes, settings.api_max_request_bytes),
        archive_entries=settings.max_archive_entries,
        archive_uncompressed_bytes=max(0, settings.max_archive_uncompressed_bytes - unpacked_bytes),
    )
    with tempfile.TemporaryDirectory(prefix="assay-upload-") as folder:
        path = Path(folder, "upload.zip")
        _copy(stream, path, limits.archive_bytes)
        _require_small_directory(path, settings.api_max_archive_directory_bytes)
        try:
            found = collect([path], limits)
        except Refused as refused:
            raise ApiProblem(422, f"The zip is refused: {refused}.", "too-many") from None
        if found.refused:
            raise ApiProblem(422, f"The zip is refused: {found.refused[0][1]}.", "archive-refused")
        batch = Batch(unpacked_bytes=found.unpacked_bytes)
        batch.refused += _passed_over(found.passed_over)
        for item in found.items:
            # Members of one name are told apart by their zip's, which here is ours.
            name = _clean_name(item.name.removeprefix(f"{path.name}/"), folders=True)
            try:
                batch.programs.append(Program(name, item.load()))
            except UnusableFile as error:
                batch.refused.append(RefusedFile(name=name, reason=str(error)))
    return batch


def _passed_over(names: tuple[str, ...]) -> list[RefusedFile]:
    """So that a program under a wrong name is missed by whoever sent it, not by nobody."""
    told = [
        RefusedFile(name=_clean_name(name, folders=True), reason="not a .py file") for name in names[:_MOST_PASSED_OVER]
    ]
    if len(names) > _MOST_PASSED_OVER:
        more = f"and {len(names) - _MOST_PASSED_OVER:,} more"
        told.append(RefusedFile(name=more, reason="no .py files"))
    return told


def _copy(stream: IO[bytes], path: Path, most: int) -> None:
    left = most
    with open(path, "xb") as file:
        while chunk := stream.read(_CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise ApiProblem(413, f"A zip has at most {most:,} bytes.", "too-large")
            file.write(chunk)


_MOST_PASSED_OVER = 100
_END = struct.Struct("<4s4H2LH")  # signature, disks, entries, entries, size and place of the directory, comment
_END_SIGNATURE = b"PK\x05\x06"
_LOCATOR_BYTES, _LOCATOR_SIGNATURE = 20, b"PK\x06\x07"  # of a ZIP64 end, which Python believes before the other


def _require_small_directory(path: Path, most: int) -> None:
    """Refuse a zip by the size of its list of members, which would be read into memory whole.

    One that hides its size from this look (ZIP64, which no honest cohort needs) is refused too.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _END.size - 0xFFFF - _LOCATOR_BYTES))
        tail = file.read()
    at = tail.rfind(_END_SIGNATURE)
    if at < 0 or at + _END.size > len(tail):
        raise ApiProblem(422, "This is not a zip that can be read.", "archive-refused")
    entries, directory_bytes = _END.unpack_from(tail, at)[4:6]
    hidden = tail[max(0, at - _LOCATOR_BYTES) : at].startswith(_LOCATOR_SIGNATURE)
    if directory_bytes > most or entries == 0xFFFF or hidden:
        raise ApiProblem(422, "The zip is refused: it has too many members.", "archive-refused")


def _clean_name(name: str | None, *, folders: bool = False) -> str:
    """A name to show, never to open: no controls, no folders unless they tell two apart."""
    text = printable_name(name or "")
    if not folders:
        text = text.replace("\\", "/").rpartition("/")[2]
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text).strip()
    return text[-_LONGEST_NAME:] or _DEFAULT_NAME


def fingerprint(programs: Iterable[Program]) -> str:
    """What is the same in two requests that bring the same programs, as text to be hashed."""
    digest = hashlib.sha256()
    for program in programs:
        line = [program.file_name, hashlib.sha256(program.source).hexdigest(), program.candidate]
        digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
