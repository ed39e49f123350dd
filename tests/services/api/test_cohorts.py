"""Many in with one request, one file out."""

from __future__ import annotations

import csv
import io
import json
import warnings
import zipfile
from typing import Any

import pytest
from openpyxl import load_workbook

from tests.services.api.conftest import Api, a_zip, problem
from tests.services.conftest import a_report

MEMBERS = {"ada/attempt.py": "fixed=8\n", "bob/attempt.py": "fixed=2\n", "notes.txt": "hello"}
LINES = b'{"source": "fixed=1", "file_name": "a.py", "candidate": {"external_id": "1"}}\n\n{"source": "fixed=2"}\n'


def names(api: Api, cohort: str) -> list[str]:
    page = api("GET", f"/submissions?cohort_id={cohort}").json["data"]
    assert all(one["queue"] == "cohort" for one in page)
    return sorted(one["file_name"] for one in page)


class TestIn:
    def test_json(self, api: Api):
        cohort = api.cohort(3)
        body = api("GET", f"/cohorts/{cohort}").json
        assert (body["total"], body["counts"]["queued"], body["state"]) == (3, 3, "running")
        assert names(api, cohort) == ["c0.py", "c1.py", "c2.py"]

    def test_a_form_with_programs_zips_and_lines(self, api: Api):
        files = [
            (a_zip(MEMBERS), "all.zip"),
            (io.BytesIO(b"fixed=3"), "eve.py"),
            (io.BytesIO(LINES), "more.jsonl"),
            (io.BytesIO(b"?"), "picture.png"),
        ]
        response = api("POST", "/cohorts", data={"name": "Spring", "challenge": "spiral", "files": files})
        body = response.json
        assert response.headers["Location"] == f"/v1/cohorts/{body['id']}"
        assert body["accepted"] == 5
        assert [one["name"] for one in body["refused"]] == ["notes.txt", "picture.png"]
        assert names(api, body["id"]) == ["a.py", "ada/attempt.py", "bob/attempt.py", "eve.py", "submission.py"]

    @pytest.mark.parametrize("kind", ["application/zip", "application/x-ndjson"])
    def test_a_bare_body(self, api: Api, kind: str):
        data = a_zip(MEMBERS).getvalue() if "zip" in kind else LINES
        response = api("POST", "/cohorts?name=Spring&challenge=spiral", data=data, content_type=kind)
        assert response.json["accepted"] == 2
        problem(api("POST", "/cohorts?name=Spring", data=data, content_type=kind), 422)

    def test_what_is_no_program_becomes_invalid(self, api: Api):
        submissions = [{"source": ""}, {"source": "fixed=1"}]
        body = {"name": "x", "challenge": "spiral", "submissions": submissions}
        lines = b'{"source": ""}\n{"source": "fixed=1"}\n'
        for response in (
            api("POST", "/cohorts", json=body),
            api("POST", "/cohorts?name=x&challenge=spiral", data=lines, content_type="application/x-ndjson"),
        ):
            assert response.json["accepted"] == 2
            cohort = response.json["id"]
            for one in api("GET", f"/submissions?cohort_id={cohort}").json["data"]:
                api.grade(one["id"])
            assert api("GET", f"/cohorts/{cohort}").json["counts"] == {"graded": 1, "invalid": 1}

    def test_lines_may_begin_with_a_byte_order_mark(self, api: Api):
        data = b"\xef\xbb\xbf" + LINES
        response = api("POST", "/cohorts?name=x&challenge=spiral", data=data, content_type="application/x-ndjson")
        assert response.json["accepted"] == 2

    def test_the_bad_part_of_a_form_is_named(self, api: Api):
        bad = {"bad.zip": b"no zip", "bad.jsonl": b'{"source": 5}\n', "worse.ndjson": b"{"}
        for name, data in bad.items():
            files = [(a_zip(MEMBERS), "all.zip"), (io.BytesIO(LINES), "l.jsonl"), (io.BytesIO(data), f"../{name}")]
            response = api("POST", "/cohorts", data={"name": "x", "challenge": "spiral", "files": files})
            assert response.json["detail"].startswith(f"{name}: ")

    def test_parts_of_a_form_tell_programs_of_one_name_apart(self, api: Api):
        files = [
            (a_zip({"x.py": "fixed=1"}), "a.zip"),
            (a_zip({"x.py": "fixed=2"}), "b.zip"),
            (io.BytesIO(b'{"source": "fixed=3", "file_name": "x.py"}'), "c.jsonl"),
            (io.BytesIO(b"fixed=4"), "x.py"),
        ]
        cohort = api("POST", "/cohorts", data={"name": "x", "challenge": "spiral", "files": files}).json
        assert names(api, cohort["id"]) == ["a.zip/x.py", "b.zip/x.py", "c.jsonl/x.py", "x.py"]

    def test_bare_lines_are_read_in_large_pieces(self, api: Api):
        class Counting(io.BytesIO):
            reads = 0

            def read(self, size: int | None = -1, /) -> bytes:
                Counting.reads += 1
                return super().read(size)

            def readinto(self, buffer: Any, /) -> int:
                Counting.reads += 1
                return super().readinto(buffer)

        line = json.dumps({"source": "x = 1\n" * 3000}).encode() + b"\n"
        data = line * 100
        response = api(
            "POST",
            "/cohorts?name=x&challenge=spiral",
            input_stream=Counting(data),
            content_length=len(data),
            content_type="application/x-ndjson",
        )
        assert response.json["accepted"] == 100
        assert Counting.reads < 200

    def test_more_is_added_and_names_stay_apart(self, api: Api):
        cohort = api("POST", "/cohorts", json={"name": "Spring", "challenge": "spiral"}).json
        assert (cohort["total"], cohort["accepted"], cohort["state"]) == (0, 0, "open")
        files = [(io.BytesIO(b"fixed=1"), "x.py"), (io.BytesIO(b"fixed=2"), "x.py")]
        body = api("POST", f"/cohorts/{cohort['id']}/submissions", data={"files": files}).json
        assert (body["accepted"], body["total"], body["counts"]) == (2, 2, {"queued": 2})
        assert names(api, cohort["id"]) == ["x.py", "x.py (2)"]

    def test_one_too_large_is_told_and_the_rest_taken(self, make_api: Any):
        api = make_api(max_submission_bytes=1000)
        large = b"#" * (api.settings.max_submission_bytes + 1)
        files = [(io.BytesIO(large), "large.py"), (io.BytesIO(b"fixed=2"), "x.py"), (a_zip({"l.py": large}), "l.zip")]
        body = api("POST", "/cohorts", data={"name": "Spring", "challenge": "spiral", "files": files}).json
        assert body["accepted"] == 1
        assert {one["name"] for one in body["refused"]} == {"large.py", "l.py"}

    def test_files_without_a_program_make_no_cohort(self, api: Api):
        empty, notes = a_zip({}), a_zip({"notes.txt": b"?"})
        for data, told in ((empty, []), (notes, [{"pointer": "/notes.txt", "detail": "not a .py file"}])):
            body = data.getvalue()
            response = api("POST", "/cohorts?name=x&challenge=spiral", data=body, content_type="application/zip")
            problem(response, 422, "no-programs")
            assert response.json.get("errors", []) == told
            form = {"name": "x", "challenge": "spiral", "files": [(io.BytesIO(body), "all.zip")]}
            problem(api("POST", "/cohorts", data=form), 422, "no-programs")
        problem(api("POST", "/cohorts?name=x&challenge=spiral", data=b"\n", content_type="application/x-ndjson"), 422)
        assert api("GET", "/cohorts").json["data"] == []

    def test_members_of_one_name_are_told_apart_by_a_number(self, api: Api):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile's, of names that come twice
            twice = io.BytesIO()
            with zipfile.ZipFile(twice, "w") as archive:
                archive.writestr("a.py", "fixed=1")
                archive.writestr("a.py", "fixed=2")
        response = api(
            "POST", "/cohorts?name=x&challenge=spiral", data=twice.getvalue(), content_type="application/zip"
        )
        assert names(api, response.json["id"]) == ["a.py", "a.py (2)"]

    def test_a_backlog_refuses_the_whole(self, make_api: Any):
        api = make_api(api_backlog_limit=2)
        submissions = [{"source": "fixed=1"}] * 3
        response = api("POST", "/cohorts", json={"name": "x", "challenge": "spiral", "submissions": submissions})
        problem(response, 429, "backlog")
        assert api("GET", "/cohorts").json["data"] == []


class TestOut:
    def graded(self, api: Api) -> str:
        cohort = api.cohort(3)
        for one in api("GET", f"/submissions?cohort_id={cohort}").json["data"][1:]:
            api.grade(one["id"])
        return cohort

    def test_csv(self, api: Api):
        cohort = self.graded(api)
        response = api("GET", f"/cohorts/{cohort}/export.csv")
        assert response.mimetype == "text/csv"
        rows = list(csv.DictReader(io.StringIO(response.data.decode("utf-8-sig"))))
        assert [(row["file_name"], row["state"], row["fixed"]) for row in rows] == [
            ("c0.py", "graded", "0"),
            ("c1.py", "graded", "1"),
            ("c2.py", "queued", ""),
        ]
        assert (rows[1]["bug_1_softmax"], rows[1]["bug_2_zero-grad"]) == ("fixed", "not_fixed")
        assert rows[1]["external_id"] == "cand-1"

    def test_json_lines_have_the_reports(self, api: Api):
        response = api("GET", f"/cohorts/{self.graded(api)}/export.jsonl")
        rows = [json.loads(line) for line in response.text.splitlines()]
        assert [row["report"] and row["report"]["rating"]["fixed"] for row in rows] == [0, 1, None]

    def test_xlsx(self, api: Api):
        response = api("GET", f"/cohorts/{self.graded(api)}/export.xlsx")
        sheet = load_workbook(io.BytesIO(response.data)).active
        header, *rows = sheet.iter_rows(values_only=True)
        assert header[:3] == ("id", "file_name", "external_id")
        assert [row[1] for row in rows] == ["c0.py", "c1.py", "c2.py"]

    def test_nothing_in_an_export_is_a_formula(self, api: Api):
        """What candidates wrote begins as text in every cell, and control characters are gone."""
        hostile = ["=HYPERLINK(0)", "+1", "-1", "@SUM(1)", " =1", "|calc", "%x"]
        submissions = [{"source": "fixed=1", "candidate": {"name": text, "external_id": text}} for text in hostile]
        cohort = api("POST", "/cohorts", json={"name": "=x", "challenge": "spiral", "submissions": submissions}).json
        rows = csv.DictReader(io.StringIO(api("GET", f"/cohorts/{cohort['id']}/export.csv").data.decode("utf-8-sig")))
        assert [row["name"] for row in rows] == [f"'{text}" for text in hostile]
        sheet = load_workbook(io.BytesIO(api("GET", f"/cohorts/{cohort['id']}/export.xlsx").data)).active
        assert all(cell.data_type != "f" for row in sheet.iter_rows() for cell in row)

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_no_cell_is_a_formula_however_lists_are_separated(self, api: Api, delimiter: str):
        hostile = ["Ada;=cmd|' /C calc'!A0;", "a; +1", "\uff1dcmd", ";\uff20SUM(1)"]
        submissions = [{"source": "fixed=1", "candidate": {"name": text, "external_id": "1"}} for text in hostile]
        cohort = api("POST", "/cohorts", json={"name": "x", "challenge": "spiral", "submissions": submissions}).json
        text = api("GET", f"/cohorts/{cohort['id']}/export.csv").data.decode("utf-8-sig")
        cells = [cell.strip() for row in csv.reader(io.StringIO(text), delimiter=delimiter) for cell in row]
        assert not [cell for cell in cells if cell[:1] in set("=+-@|%\uff1d\uff0b\uff0d\uff20")]

    def test_no_such_cohort(self, api: Api):
        for kind in ("csv", "jsonl", "xlsx"):
            problem(api("GET", f"/cohorts/coh_{'0' * 26}/export.{kind}"), 404)


class TestLife:
    def test_a_regrade_tells_what_changed(self, api: Api):
        cohort = api.cohort(2)
        page = api("GET", f"/submissions?cohort_id={cohort}").json["data"]
        for one in page:
            api.grade(one["id"])
        assert api("GET", f"/cohorts/{cohort}").json["state"] == "finished"
        response = api("POST", f"/cohorts/{cohort}/regrade")
        assert (response.status_code, response.json["counts"]) == (202, {"queued": 2})
        assert response.headers["Location"] == f"/v1/cohorts/{cohort}/diff"
        claim = api.store.claim(page[0]["id"], "worker", 60)
        assert api.store.finish(claim, a_report("x.py", b"fixed=2"))
        diff = api("GET", f"/cohorts/{cohort}/diff").json
        assert (diff["state"], diff["changed"], len(diff["data"])) == ("running", 1, 1)
        (change,) = diff["data"][0]["changes"]
        assert (change["before"], change["after"]) == ("not_fixed", "fixed")

    def test_cancel(self, api: Api):
        cohort = api.cohort(2)
        assert api("POST", f"/cohorts/{cohort}/cancel").json["counts"] == {"cancelled": 2}
        more = {"submissions": [{"source": "fixed=1"}]}
        problem(api("POST", f"/cohorts/{cohort}/submissions", json=more), 409, "conflict")

    def test_list(self, api: Api):
        made = [api.cohort(1, name=f"{n}") for n in range(3)]
        first = api("GET", "/cohorts?limit=2").json
        second = api("GET", f"/cohorts?limit=2&cursor={first['next_cursor']}").json
        assert [one["id"] for one in first["data"] + second["data"]] == made[::-1]
