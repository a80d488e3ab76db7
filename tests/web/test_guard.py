"""Who may ask, and what is refused: each promise of docs/security.md."""

from __future__ import annotations

import ast
import asyncio
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from library.tiny import Tiny, fill, picture
from starlette.testclient import TestClient

import neocog.web
from neocog.library import Library
from neocog.library.indexing import index
from neocog.web import guard
from neocog.web.app import is_loopback, make_app
from neocog.web.guard import Guard
from neocog.web.served import Served

PHOTOS = "/api/libraries/photos"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Four pictures; one is a link that leads out of the folder, and one was changed after it was indexed."""
    home = tmp_path_factory.mktemp("home")
    fill(home / "photos", 4)
    picture(77).save(home / "secret.png")
    os.symlink(home / "secret.png", home / "photos" / "link.png")
    picture(78).save(home / "photos" / "changed.png")
    index(Library.beside(home / "photos").store, [home / "photos"], embedder=Tiny(), threads=1)
    picture(79).save(home / "photos" / "changed.png")
    return home / "photos"


@pytest.fixture(scope="module")
def served(photos, tmp_path_factory) -> Served:
    return Served([photos], jobs=tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def page(served) -> TestClient:
    return TestClient(make_app(served), base_url="http://localhost:8080")


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"])
def test_this_machine_is_answered(page, host):
    assert page.get("/api/state", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "a@localhost", ""]
)
def test_names_that_lead_here_from_elsewhere_are_refused(page, host):
    assert page.get("/api/state", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:3000"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_pages_of_other_sites_are_refused(page, headers):
    assert page.get("/api/state", headers=headers).status_code == 403
    assert page.post(f"{PHOTOS}/undo", headers=headers).status_code == 403


def test_the_page_itself_is_answered_and_a_link_to_it_works(page):
    own = {"origin": "http://localhost:8080", "sec-fetch-site": "same-origin"}
    assert page.get("/api/state", headers=own).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert page.get("/docs", headers=link).status_code == 200


def test_beyond_this_machine_a_token_is_asked_for(served):
    page = TestClient(make_app(served, host="0.0.0.0", token="right"), base_url="http://192.168.1.5:8080")
    assert page.get("/api/state").status_code == 401
    assert page.get("/static/docs.js").status_code == 401
    assert page.get("/?token=wrong").status_code == 401
    assert page.get("/api/state", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert page.get("/api/state", headers={"authorization": "Bearer right"}).status_code == 200
    opened = page.get("/?token=right", follow_redirects=False)
    assert opened.status_code == 303 and "HttpOnly" in opened.headers["set-cookie"]
    assert "SameSite=Strict" in opened.headers["set-cookie"]
    assert page.get("/api/state").status_code == 200  # by the cookie


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("box", False),
    ],
)
def test_what_is_this_machine(host, own):
    assert is_loopback(host) is own


def test_every_answer_has_a_strict_policy(page):
    for path in ("/api/state", "/docs", "/nowhere", "/static/docs.js", f"{PHOTOS}/pictures/{'0' * 32}"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "script-src 'self'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    refused = page.get("/", headers={"host": "evil.example"}).headers
    assert "default-src 'none'" in refused["content-security-policy"]


def test_pages_load_nothing_from_elsewhere_and_have_no_inline_script():
    static = Path(neocog.web.__file__).parent / "static"
    for page in static.glob("*.html"):
        text = page.read_text("utf-8")
        assert "http" not in text.replace("http-equiv", "").replace("HTTP", "") and "<script>" not in text
        assert " on" not in "".join(part for part in text.split("<")[1:] if part.partition(">")[0].count('on="'))


@pytest.mark.parametrize(
    "path",
    [
        f"{PHOTOS}/pictures/..%2f..%2fetc%2fpasswd/file",
        f"{PHOTOS}/pictures/%2e%2e/file",
        f"{PHOTOS}/pictures/{'a' * 31}g/thumbnail",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "//etc/passwd",
    ],
)
def test_nothing_is_found_by_path(page, path):
    answer = page.get(path)
    assert answer.status_code in (400, 404) and b"import" not in answer.content


@pytest.mark.parametrize(
    "query", ["like:/etc/passwd", "unlike:{secret}", "(like:{secret}) OR dog", "like:../secret.png"]
)
def test_a_query_reads_no_file_outside_the_library(page, photos, query):
    secret = photos.parent / "secret.png"
    os.rename(secret, photos.parent / "other.png") if query == "like:../secret.png" else None
    answer = page.get(f"{PHOTOS}/search", params={"q": query.format(secret=photos.parent / "other.png")})
    assert answer.status_code == 400 and "there is no picture" in answer.json()["error"]


def all_ids(page: TestClient) -> dict[str, str]:
    return {one["name"]: one["id"] for one in page.get(f"{PHOTOS}/search").json()["hits"]}


def test_a_link_out_of_the_library_is_not_followed(page):
    one = all_ids(page)["link.png"]
    for what in ("file", "thumbnail"):
        answer = page.get(f"{PHOTOS}/pictures/{one}/{what}")
        assert answer.status_code == 404 and "a link leads out" in answer.json()["error"]


def test_another_content_is_not_given_out(page):
    answer = page.get(f"{PHOTOS}/pictures/{all_ids(page)['changed.png']}/file")
    assert answer.status_code == 404 and "changed since it was indexed" in answer.json()["error"]


def test_paths_are_told_from_the_library_on(page, photos):
    one = all_ids(page)["0.png"]
    assert str(photos.parent) not in page.get(f"{PHOTOS}/pictures/{one}").text
    assert page.get(f"{PHOTOS}/pictures/{one}").json()["files"] == ["photos/a/0.png"]


def test_a_body_that_is_too_large_is_refused(page, monkeypatch):
    monkeypatch.setattr(guard, "LARGEST", 1000)
    assert page.post(f"{PHOTOS}/search", files={"picture": bytes(2000)}).status_code == 413
    parts = (bytes(500) for _ in range(4))  # no length is told
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert page.post(f"{PHOTOS}/search", content=parts, headers=headers).status_code == 413


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 0.0)
    said: list[int] = []

    async def app(scope, receive, send):
        try:
            await receive()
        except guard.HTTPException as error:
            said.append(error.status_code)

    async def never():
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")], "query_string": b""}
    asyncio.run(Guard(app)(scope, never, None))
    assert said == [408]


def test_too_many_requests_at_once_are_refused(monkeypatch):
    monkeypatch.setattr(guard, "AT_ONCE", 0)
    page = TestClient(Guard(None), base_url="http://localhost")
    assert page.get("/").status_code == 503


def test_a_decompression_bomb_is_refused_by_its_header(page):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    answer = page.post(f"{PHOTOS}/search", files={"picture": bomb})
    assert answer.status_code == 400
    assert page.post(f"{PHOTOS}/search", files={"picture": b"<script>"}).status_code == 400
    out = io.BytesIO()
    picture(3).save(out, "PNG")
    broken = out.getvalue()[:-40]
    assert page.post(f"{PHOTOS}/search", files={"picture": broken}).status_code == 400


def test_no_pickle_no_shell_and_no_fetching():
    """Nothing in the room imports what would unpickle, run a shell or ask other servers."""
    forbidden = {"pickle", "marshal", "shelve", "urllib.request", "http.client", "requests", "httpx", "jinja2"}
    for path in Path(neocog.web.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not forbidden & set(names), path
            if isinstance(node, ast.Call):
                assert not any(k.arg == "shell" for k in node.keywords), path
                assert getattr(node.func, "id", "") not in ("eval", "exec"), path
