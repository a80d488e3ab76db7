"""The routes about libraries: what a page would ask, on a library whose rows were written down."""

from __future__ import annotations

from pathlib import Path

import pytest
from library.tiny import Tiny, fill
from starlette.testclient import TestClient

from neocog.library import Library
from neocog.library.indexing import index
from neocog.web.app import make_app
from neocog.web.served import Served

HERE = {"host": "localhost:8080"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Ten small pictures in two class folders, indexed."""
    folder = tmp_path_factory.mktemp("home") / "photos"
    fill(folder, 10)
    (folder / "a" / "<img src=x onerror=alert(1)>.jpg").write_bytes((folder / "b" / "1.jpg").read_bytes())
    index(Library.beside(folder).store, [folder], embedder=Tiny(), threads=1)
    return folder


@pytest.fixture(scope="module")
def page(photos) -> TestClient:
    return TestClient(make_app(Served([photos])), base_url="http://localhost:8080")


def hits(page: TestClient, **asked: object) -> list[dict]:
    answer = page.get("/api/libraries/photos/search", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


def test_the_state_names_the_libraries(page):
    (one,) = page.get("/api/state").json()["libraries"]
    assert (one["name"], one["pictures"]) == ("photos", 10)


def test_without_a_query_every_picture_is_there_page_by_page(page):
    first, second = hits(page, limit=6), hits(page, limit=6, offset=6)
    assert len(first) == 6 and len(second) == 4
    assert len({one["id"] for one in first + second}) == 10


def test_a_filter_finds_and_says_why(page):
    found = hits(page, q="label:a")
    assert len(found) == 6  # one content has files in both folders
    assert found[0]["why"][0]["witness"] == "filter"


def test_an_example_of_the_library_finds_itself_first(page):
    one = hits(page)[3]
    assert hits(page, like=one["id"])[0]["id"] == one["id"]


def test_nothing_found_has_a_reason(page):
    answer = page.get("/api/libraries/photos/search", params={"q": "tag:nowhere"}).json()
    assert answer["total"] == 0 and answer["nothing"]


def test_thumbnails_are_small_jpegs_that_browsers_may_keep(page):
    one = hits(page)[0]["id"]
    answer = page.get(f"/api/libraries/photos/pictures/{one}/thumbnail?size=160")
    assert answer.headers["content-type"] == "image/jpeg" and answer.content.startswith(b"\xff\xd8")
    again = page.get(answer.request.url, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert page.get(f"/api/libraries/photos/pictures/{one}/thumbnail?size=161").status_code == 400


def test_the_file_is_the_picture_byte_by_byte(page, photos):
    whole = {path.read_bytes() for path in photos.rglob("*.jpg")} | {
        path.read_bytes() for path in photos.rglob("*.png")
    }
    for one in hits(page):
        answer = page.get(f"/api/libraries/photos/pictures/{one['id']}/file")
        assert answer.content in whole and answer.headers["content-type"] in ("image/jpeg", "image/png")


def test_what_is_known_of_a_picture(page):
    one = hits(page, q="label:b")[0]["id"]
    known = page.get(f"/api/libraries/photos/pictures/{one}").json()
    assert known["labels"] == ["b"] or set(known["labels"]) == {"a", "b"}
    assert known["files"][0].startswith("photos/")
    near = page.get(f"/api/libraries/photos/pictures/{one}/neighbours?limit=3").json()["neighbours"]
    assert len(near) == 3 and one not in {n["id"] for n in near}
