"""What is sent to break it."""

from __future__ import annotations

import io
import json
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.services.api.conftest import PROGRAM, Api, a_zip, problem

JSON = "application/json"


class TestJson:
    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"{", 400),
            (b"\xff\xfe{}", 400),
            (b'{"source": "\xff"}', 400),
            (b'{"challenge": "spiral", "source": "\\ud800"}', 400),
            (b"[" * 100_000, 400),
            (b'{"challenge": "spiral", "source": ' + b"[" * 1000 + b"]" * 1000 + b"}", 400),
            (b"null", 422),
            (b"[]", 422),
            (b'"x"', 422),
            (b'{"challenge": "spiral"}', 422),
            (b'{"challenge": "spiral", "source": 5}', 422),
            (b'{"challenge": "spiral", "source": null}', 422),
            (b'{"challenge": "spiral", "source": "x", "extra": 1}', 422),
            (b'{"challenge": "../spiral", "source": "x"}', 422),
            (b'{"challenge": "none", "source": "x"}', 422),
            (b'{"challenge": "spiral", "source": "x", "file_name": "a/b.py"}', 422),
            (b'{"challenge": "spiral", "source": "x", "file_name": "a\\u0000.py"}', 422),
            (b'{"challenge": "spiral", "source": "x", "candidate": {"name": "a\\nb"}}', 422),
            (b'{"challenge": "spiral", "source": "x", "candidate": {"phone": "1"}}', 422),
            (b'{"challenge": "spiral", "source": ""}', 422),
            (b'{"challenge": "spiral", "source": "  \\n"}', 422),
            (b'{"challenge": "spiral", "source": "a\\u0000b"}', 422),
            (b'{"challenge": "spiral", "source": "x", "assessment_id": "asm_00000000000000000000000000"}', 404),
        ],
    )
    def test_refused(self, api: Api, body: bytes, status: int):
        response = api("POST", "/submissions", data=body, content_type=JSON)
        problem(response, status)
        assert api("GET", "/submissions").json["data"] == []

    def test_what_was_sent_is_not_repeated(self, api: Api):
        body = {"challenge": "spiral", "source": "x", "candidate": {"name": 5, "email": "private@example.org\n"}}
        text = api("POST", "/submissions", json=body).text
        assert "private" not in text

    @pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded", "application/xml"])
    def test_other_types_are_415(self, api: Api, kind: str):
        problem(api("POST", "/submissions", data=PROGRAM, content_type=kind), 415)
        problem(api("POST", "/cohorts?name=x&challenge=spiral", data=PROGRAM, content_type=kind), 415)
        problem(api("POST", "/keys", data="{}", content_type=kind), 415)

    def test_compressed_bodies_are_415(self, api: Api):
        problem(api("POST", "/submissions", data=b"x", headers={"Content-Encoding": "gzip"}), 415)


class TestForms:
    @pytest.mark.parametrize(
        "form",
        [
            {"challenge": "spiral"},
            {"file": (io.BytesIO, "x.py")},
            {"challenge": "spiral", "file": "text"},
            {"challenge": "spiral", "other": (io.BytesIO, "x.py")},
            {"challenge": "spiral", "file": [(io.BytesIO, "x.py"), (io.BytesIO, "y.py")]},
            {"challenge": ["spiral", "spiral"], "file": (io.BytesIO, "x.py")},
            {"challenge": "spiral", "file": (io.BytesIO, "x.py"), "extra": "1"},
            {"challenge": "spiral", "name": "a\0b", "file": (io.BytesIO, "x.py")},
        ],
    )
    def test_refused(self, api: Api, form: dict[str, Any]):
        def filled(part: Any) -> Any:
            if isinstance(part, list):
                return [filled(one) for one in part]
            return (io.BytesIO(PROGRAM.encode()), part[1]) if isinstance(part, tuple) else part

        data = {name: filled(part) for name, part in form.items()}
        problem(api("POST", "/submissions", data=data, content_type="multipart/form-data"), 422)

    @pytest.mark.parametrize(
        "data", [b"", b"--x", b"garbage", b"--x\r\n\r\n", b'--x\r\nContent-Disposition: form-data; name="']
    )
    @pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x"])
    def test_broken_forms(self, api: Api, data: bytes, kind: str):
        response = api("POST", "/submissions", data=data, content_type=kind)
        assert response.status_code in (400, 413, 422), response.text
        problem(response, response.status_code)

    @pytest.mark.parametrize(
        "source", [b"\xff\xfe\x00p", "print('ä')".encode("latin-1"), b"", b"\n\n", b"a\0b", b"PK\x03\x04\xff"]
    )
    def test_what_is_no_program(self, api: Api, source: bytes):
        form = {"challenge": "spiral", "file": (io.BytesIO(source), "x.py")}
        problem(api("POST", "/submissions", data=form), 422, "unusable-file")

    def test_a_declared_encoding_is_python_s_business(self, api: Api):
        source = b"# -*- coding: latin-1 -*-\nprint('\xe4')\n"
        response = api("POST", "/submissions", data={"challenge": "spiral", "file": (io.BytesIO(source), "x.py")})
        assert api("GET", f"/submissions/{response.json['id']}/source").data == source


class Endless(io.RawIOBase):
    """A body without an end that counts what was taken of it."""

    def __init__(self) -> None:
        self.taken = 0

    def environ(self, length: str) -> dict[str, Any]:
        """A request with this body, as a WSGI server would hand it over."""
        return {"wsgi.input": self, "CONTENT_LENGTH": length}

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.taken += len(buffer)
        buffer[:] = b"x" * len(buffer)
        return len(buffer)


class TestSizes:
    @pytest.mark.parametrize(("path", "limit"), [("/keys", 1000), ("/submissions", 2000), ("/cohorts", 3000)])
    def test_a_content_length_is_refused_unread(self, make_api: Any, path: str, limit: int):
        api = make_api(api_max_json_bytes=1000, api_max_submission_request_bytes=2000, api_max_request_bytes=3000)
        body = Endless()
        response = api("POST", path, content_type=JSON, environ_overrides=body.environ(str(limit + 1)))
        problem(response, 413, "too-large")
        assert body.taken == 0

    @pytest.mark.parametrize("path", ["/keys", "/submissions", "/cohorts", "/cohorts?name=x&challenge=spiral"])
    @pytest.mark.parametrize(
        "kind", [JSON, "application/x-ndjson", "application/zip", "multipart/form-data; boundary=x"]
    )
    def test_a_chunked_body_is_refused_once_it_is_too_large(self, make_api: Any, path: str, kind: str):
        """No Content-Length says how much will come; no more than the limit and a buffer is taken."""
        api = make_api(api_max_json_bytes=1000, api_max_submission_request_bytes=2000, api_max_request_bytes=3000)
        body = Endless()
        environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", **body.environ("")}
        response = api("POST", path, content_type=kind, environ_overrides=environ)
        assert response.status_code in (413, 415, 422), response.text
        assert body.taken <= 1 << 17

    def test_a_chunked_body_that_the_server_cannot_end_is_411(self, api: Api):
        body = Endless()
        environ = {"HTTP_TRANSFER_ENCODING": "chunked", **body.environ("")}
        response = api("POST", "/submissions", content_type=JSON, environ_overrides=environ)
        problem(response, 411)
        assert body.taken == 0

    def test_a_chunked_submission_within_the_limits_is_taken(self, api: Api):
        data = json.dumps({"challenge": "spiral", "source": PROGRAM}).encode()
        environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        stream = io.BytesIO(data)
        response = api("POST", "/submissions", input_stream=stream, content_type=JSON, environ_overrides=environ)
        assert response.status_code == 202

    def test_a_source_above_the_limit_is_413(self, make_api: Any):
        api = make_api(max_submission_bytes=100)
        for body in ("é" * 51, "x" * 101):
            problem(api("POST", "/submissions", json={"challenge": "spiral", "source": body}), 413, "too-large")
            form = {"challenge": "spiral", "file": (io.BytesIO(body.encode()), "x.py")}
            problem(api("POST", "/submissions", data=form), 413, "too-large")

    def test_a_body_shorter_than_it_says(self, api: Api):
        stream = io.BytesIO(b'{"chall')
        response = api("POST", "/submissions", input_stream=stream, content_length=100, content_type=JSON)
        problem(response, 400)

    def test_a_cohort_as_json_is_bounded_by_itself(self, make_api: Any):
        api = make_api(api_max_cohort_json_bytes=500)
        submissions = [{"source": "x" * 600}]
        body = {"name": "x", "challenge": "spiral", "submissions": submissions}
        problem(api("POST", "/cohorts", json=body), 413, "too-large")
        environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", **Endless().environ("")}
        problem(api("POST", "/cohorts", content_type=JSON, environ_overrides=environ), 413)

    def test_a_line_without_end(self, make_api: Any):
        api = make_api(api_max_submission_request_bytes=1000)
        data = b'{"source": "' + b"x" * 5000
        response = api("POST", "/cohorts?name=x&challenge=spiral", data=data, content_type="application/x-ndjson")
        problem(response, 413)


def link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("link.py")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


def member(name: str, content: bytes = b"fixed=1") -> Callable[[zipfile.ZipFile], None]:
    return lambda archive: archive.writestr(name, content)


def many(archive: zipfile.ZipFile) -> None:
    for n in range(10_001):
        archive.writestr(f"{n}.py", "x")


class TestZips:
    @pytest.mark.parametrize(
        ("fill", "words"),
        [
            (link, "symbolic link"),
            (member("../evil.py"), "outside"),
            (member("a/../../evil.py"), "outside"),
            (member("/etc/evil.py"), "absolute"),
            (member("C:evil.py"), "absolute"),
            (member("a\\evil.py"), "malformed"),
            (many, "10,002 members"),
        ],
    )
    def test_refused_with_the_reason(self, api: Api, fill: Callable[[zipfile.ZipFile], None], words: str):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            member("good.py")(archive)
            fill(archive)
        self.refused(api, file.getvalue(), words)

    def refused(self, api: Api, data: bytes, words: str) -> None:
        form = {"name": "x", "challenge": "spiral", "files": (io.BytesIO(data), "all.zip")}
        bare = {"data": data, "content_type": "application/zip"}
        for response in (
            api("POST", "/cohorts", data=form),
            api("POST", "/cohorts?name=x&challenge=spiral", **bare),
        ):
            body = problem(response, 422, "archive-refused")
            assert words in body["detail"]
        assert api("GET", "/submissions").json["data"] == [] == api("GET", "/cohorts").json["data"]

    def test_a_bomb_of_many_members(self, make_api: Any):
        api = make_api(max_archive_uncompressed_bytes=2 << 20)
        bomb = a_zip({f"{n}.py": b"#" * (1 << 20) for n in range(10)}).getvalue()
        assert len(bomb) < 20_000
        self.refused(api, bomb, "unpacks to more than")

    def test_bombs_in_many_zips_of_one_request(self, make_api: Any):
        api = make_api(max_archive_uncompressed_bytes=3 << 20)
        files = [(a_zip({f"{n}.py": b"#" * (1 << 20) for n in range(2)}), f"{z}.zip") for z in range(2)]
        body = problem(
            api("POST", "/cohorts", data={"name": "x", "challenge": "spiral", "files": files}), 422, "archive-refused"
        )
        assert "unpacks to more than" in body["detail"]

    def test_a_second_end_that_python_would_believe(self, api: Api, monkeypatch: pytest.MonkeyPatch):
        """A ZIP64 end before the ordinary one, which claims a single small entry."""
        data = bytearray(a_zip({f"{n}.py": "x" for n in range(50)}).getvalue())
        at = data.rindex(b"PK\x05\x06")
        size, place = struct.unpack_from("<2L", data, at + 12)
        end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 50, 50, size, place)
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
        struct.pack_into("<2H2L", data, at + 8, 1, 1, 47, place)
        crafted = bytes(data[:at]) + end64 + locator + bytes(data[at:])
        with zipfile.ZipFile(io.BytesIO(crafted)) as archive:
            assert len(archive.namelist()) == 50
        monkeypatch.setattr(zipfile, "ZipFile", None)  # it is not even opened
        self.refused(api, crafted, "too many members")

    def test_members_that_are_no_programs_are_told(self, api: Api):
        def refused(members: dict[str, str]) -> list[str]:
            data = a_zip(members).getvalue()
            body = api("POST", "/cohorts?name=x&challenge=spiral", data=data, content_type="application/zip").json
            return [one["name"] for one in body["refused"]]

        wrong = dict.fromkeys(("bob.py.txt", "carol.ipynb", "dave.zip", ".eve/eve.py"), "x")
        litter = dict.fromkeys(("__MACOSX/._a.py", ".DS_Store", ".git/config"), "x")
        assert refused({"a.py": "x", **wrong, **litter}) == list(wrong)
        told = refused({"a.py": "x", **{f"{n}.png": "" for n in range(150)}})
        assert len(told) == 101 and told[-1] == "and 50 more"

    def test_a_bomb_in_one_member_is_left_out_and_memory_stays_flat(self, api: Api):
        bomb = a_zip({"bomb.py": b"#" * (200 << 20), "good.py": "fixed=1"}).getvalue()
        tracemalloc.start()
        form = {"name": "x", "challenge": "spiral", "files": (io.BytesIO(bomb), "all.zip")}
        body = api("POST", "/cohorts", data=form).json
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (body["accepted"], [one["name"] for one in body["refused"]]) == (1, ["bomb.py"])
        assert peak < 32 << 20

    def test_a_list_of_members_that_would_fill_memory(self, make_api: Any):
        api = make_api(api_max_archive_directory_bytes=1000)
        data = a_zip({f"{n}.py": "x" for n in range(100)}).getvalue()
        self.refused(api, data, "too many members")

    def test_one_that_lies_about_its_list(self, api: Api):
        data = bytearray(a_zip({"a.py": "x"}).getvalue())
        struct.pack_into("<2L", data, len(data) - 10, 1 << 31, 0)
        self.refused(api, bytes(data), "too many members")

    @pytest.mark.parametrize("data", [b"", b"PK", b"not a zip at all", b"PK\x05\x06" + b"\xff" * 18, b"\0" * 1000])
    def test_what_is_no_zip(self, api: Api, data: bytes):
        form = {"name": "x", "challenge": "spiral", "files": (io.BytesIO(data), "all.zip")}
        problem(api("POST", "/cohorts", data=form), 422, "archive-refused")

    def test_too_many_programs(self, make_api: Any):
        api = make_api(max_batch_files=3)
        four = {f"{n}.py": "x" for n in range(4)}
        form = {"name": "x", "challenge": "spiral", "files": (a_zip(four), "all.zip")}
        problem(api("POST", "/cohorts", data=form), 422, "too-many")
        lines = b'{"source": "x"}\n' * 4
        response = api("POST", "/cohorts?name=x&challenge=spiral", data=lines, content_type="application/x-ndjson")
        problem(response, 422, "too-many")
        files = [(io.BytesIO(b"x"), f"{n}.py") for n in range(4)]
        problem(api("POST", "/cohorts", data={"name": "x", "challenge": "spiral", "files": files}), 422, "too-many")

    def test_nothing_is_left_on_disk(self, api: Api, tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(scratch))
        api("POST", "/cohorts", data={"name": "x", "challenge": "spiral", "files": (a_zip({"../a.py": "x"}), "a.zip")})
        api("POST", "/cohorts", data={"name": "x", "challenge": "spiral", "files": (a_zip({"a.py": "x"}), "a.zip")})
        assert list(scratch.iterdir()) == []


class TestLines:
    @pytest.mark.parametrize(
        ("line", "status"),
        [(b"{", 400), (b"\xff", 400), (b"[]", 422), (b'{"source": 1}', 422), (b'{"file_name": "a"}', 422)],
    )
    def test_one_bad_line_refuses_all_and_is_named(self, api: Api, line: bytes, status: int):
        data = b'{"source": "x"}\n' + line + b"\n"
        response = api("POST", "/cohorts?name=x&challenge=spiral", data=data, content_type="application/x-ndjson")
        body = problem(response, status)
        assert "2" in json.dumps([body["detail"], body.get("errors")])
        assert api("GET", "/cohorts").json["data"] == []


class TestAddresses:
    @pytest.mark.parametrize(
        "path", ["//nope", "//v1", "//v1/", "//v1//submissions", "//docs/../etc/passwd", "//docs/x.js", "//%ff"]
    )
    def test_nothing_there(self, api: Api, path: str):
        problem(api("GET", path), 404)

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO"])
    def test_other_methods(self, api: Api, method: str):
        response = api(method, "/submissions")
        problem(response, 405)
        assert response.headers["Allow"]

    def test_a_fault_of_ours_tells_nothing(self, api: Api, logs: io.StringIO, monkeypatch: pytest.MonkeyPatch):
        def fail(*args: Any) -> Iterator[None]:
            raise RuntimeError("inner words")

        monkeypatch.setattr(type(api.store), "list_keys", fail)
        api.app.testing = False
        body = problem(api("GET", "/keys"), 500, "internal")
        assert "inner words" not in json.dumps(body)
        assert (
            "inner words" in logs.getvalue() and body["instance"].removeprefix("urn:assay:request:") in logs.getvalue()
        )
