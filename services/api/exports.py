"""A cohort as a file: CSV and a spreadsheet for people, JSON lines for programs.

What candidates wrote is data: no cell that a spreadsheet would run as a formula, and no character
that a file format cannot hold.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.styles import Font

from grading.challenge import Bug
from services.api.models import SubmissionTold, submission_fields
from services.store import CohortRow
from services.store.events import iso

CSV, LINES = "text/csv", "application/x-ndjson"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

# Spreadsheets run what begins with these, also after blanks; a leading apostrophe makes it text.
_SIGNS = "=+\\-@|%\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
_FORMULA = re.compile(rf"\s*[{_SIGNS}\t\r]")
# Where lists are separated by semicolons or tabs, a spreadsheet begins a new cell at each.
_INNER = re.compile(rf"([;\t])(\s*[{_SIGNS}])")
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_LONGEST_CELL = 32_000
_SPOOLED_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 16

_FIXED = (
    "id",
    "file_name",
    "external_id",
    "name",
    "email",
    "state",
    "rating",
    "provisional",
    "fixed",
    "total",
    "goal_reached",
    "accuracy",
    "tampering_suspected",
    "invalid_reason",
    "created_at",
    "finished_at",
    "generation",
    "grader",
)
Cell = str | int | float | bool | None


def harmless(value: Cell) -> Cell:
    """`value` so that no spreadsheet runs it."""
    if not isinstance(value, str):
        return value
    text = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value)[:_LONGEST_CELL]
    text = _INNER.sub(r"\1'\2", text)
    return f"'{text}" if _FORMULA.match(text) else text


def header(bugs: Iterable[Bug]) -> list[str]:
    """The names of the columns: one for each bug after those that every cohort has."""
    return [*_FIXED, *(f"bug_{bug.number}_{bug.id}" for bug in bugs)]


def cells(row: CohortRow, bugs: Iterable[Bug]) -> list[Cell]:
    """One row under `header`."""
    submission, report = row.submission, row.report or {}
    candidate = submission.candidate or {}
    rating: Mapping[str, Any] = report.get("rating") or {}
    goal: Mapping[str, Any] = report.get("goal") or {}
    versions: Mapping[str, Any] = report.get("versions") or {}
    verdicts = {bug["id"]: bug["verdict"] for bug in report.get("bugs", ())}
    values: list[Cell] = [
        submission.id,
        submission.file_name,
        candidate.get("external_id"),
        candidate.get("name"),
        candidate.get("email"),
        submission.state,
        submission.rating,
        rating.get("provisional"),
        submission.fixed,
        submission.total,
        goal.get("reached"),
        goal.get("accuracy"),
        submission.tampering_suspected,
        report.get("invalid_reason"),
        iso(submission.created_us),
        None if submission.finished_us is None else iso(submission.finished_us),
        submission.generation,
        versions.get("grader_digest"),
    ]
    return [harmless(value) for value in [*values, *(verdicts.get(bug.id) for bug in bugs)]]


def csv_lines(rows: Iterable[CohortRow], bugs: tuple[Bug, ...]) -> Iterator[str]:
    """RFC 4180, row by row; the byte order mark makes spreadsheets read UTF-8."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(header(bugs))
    yield "\N{ZERO WIDTH NO-BREAK SPACE}" + buffer.getvalue()
    for row in rows:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(cells(row, bugs))
        yield buffer.getvalue()


def json_lines(rows: Iterable[CohortRow], base: str) -> Iterator[str]:
    """One submission with its whole report a line."""
    for row in rows:
        told = SubmissionTold.model_validate(submission_fields(row.submission, base)).model_dump(mode="json")
        yield json.dumps({**told, "report": row.report}) + "\n"


def spreadsheet(rows: Iterable[CohortRow], bugs: tuple[Bug, ...]) -> IO[bytes]:
    """An XLSX file, written row by row to a temporary file and rewound."""
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Cohort")
    sheet.freeze_panes = "C2"
    sheet.append([_cell(sheet, name, bold=True) for name in header(bugs)])
    for row in rows:
        sheet.append([_cell(sheet, value) for value in cells(row, bugs)])
    file = tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES)  # noqa: SIM115 — `chunks` closes it
    book.save(file)
    file.seek(0)
    return file


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """A file's content from here on; it is closed with the end of the response."""
    with file:
        yield from iter(lambda: file.read(_CHUNK_BYTES), b"")


def _cell(sheet: Any, value: Cell, *, bold: bool = False) -> Any:
    cell = WriteOnlyCell(sheet, value=value)
    if isinstance(value, str):
        cell.data_type = "s"  # openpyxl would take a leading = for a formula
    if bold:
        cell.font = Font(bold=True)
    return cell
