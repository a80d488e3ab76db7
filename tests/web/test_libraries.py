"""The routes about libraries: what a page would ask, on a library whose rows were written down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from films import scene, write
from library.tiny import Tiny, fill
from starlette.testclient import TestClient

import neocog
from neocog.data.decode import prepare
from neocog.data.sound import written
from neocog.library import Library
from neocog.library.indexing import index
from neocog.library.overview import keep_map
from neocog.web.app import make_app
from neocog.web.served import Served


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
    return TestClient(make_app(Served([photos], jobs=photos.parent / "jobs")), base_url="http://localhost:8080")


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


@pytest.fixture(scope="module")
def tapes(tmp_path_factory) -> tuple[TestClient, Path]:
    """Two pictures, five recordings with a net of a run beside the usual one, and a video, indexed."""
    folder, run = tmp_path_factory.mktemp("home") / "tapes", tmp_path_factory.mktemp("run") / "tones"
    fill(folder, 2)
    tones = neocog.open_source("drawn:n=12,kind=sound,seed=3")
    for i in range(5):
        (folder / f"{i}.wav").write_bytes(tones.read(i))
    write(folder / "film.mp4", [*scene(1, 20), *scene(2, 20)], rate=10)
    how: dict = {"epochs": 1, "progress": False, "set": {"min_steps": 2}, "device": "cpu"}
    neocog.train("drawn:n=12,kind=sound", out=run, **how)
    library = Library.beside(folder)
    index(library.store, [folder], embedder=Tiny(), threads=1)
    library.index(folder, net=run)
    return TestClient(make_app(Served([folder], jobs=folder.parent / "jobs")), base_url="http://localhost:8080"), folder


def test_a_recording_is_an_example_and_nobody_is_told_where_it_lay(tapes):
    page, folder = tapes
    given = {"picture": ("my question.wav", (folder / "2.wav").read_bytes(), "audio/wav")}
    answer = page.post("/api/libraries/tapes/search", files=given, data={"threshold": "0"}).json()
    assert {one["name"] for one in answer["hits"]} == {f"{i}.wav at 00:00" for i in range(5)}
    own = next(one["why"][0]["text"] for one in answer["hits"] if one["name"].startswith("2.wav"))
    assert own.startswith("like my question.wav: cosine 1.000")
    whole = page.get("/api/state").json()["libraries"][0]
    assert whole["holds"] == "2 pictures, 2 frames of 1 video and 5 parts of 5 recordings"
    for name, data, said in (
        ("still.wav", written(np.zeros(8000, np.float32), 8000), "nothing sounds in it"),
        ("x.wav", b"RIFF\x00\x00\x00\x00WAVE", "not a sound file that can be read"),
        ("x.jpg", b"words", "not a picture"),
    ):
        answer = page.post("/api/libraries/tapes/search", files={"picture": (name, data)})
        assert answer.status_code == 400 and said in answer.json()["error"] and "/tmp" not in answer.text


def test_words_ask_the_net_that_is_named(tapes):
    page, _ = tapes
    about = page.get("/api/libraries/tapes").json()
    assert about["hears"] in about["sounds"] and len(about["sounds"]) == 2 and about["model"] not in about["sounds"]
    word = neocog.open_source("drawn:n=2,kind=sound").classes[0]
    asked = {"q": word, "threshold": 0, "model": about["hears"]}
    found = page.get("/api/libraries/tapes/search", params=asked).json()["hits"]
    assert len(found) > 4 and found[0]["name"].endswith(".wav at 00:00") and "concepts" in found[0]["why"][0]["text"]
    assert page.get("/api/libraries/tapes/search", params={**asked, "model": "other"}).status_code == 400
    notes = page.get("/api/libraries/tapes/search", params={"q": word}).json()["notes"]
    assert f"{word!r} is a word of {about['hears']}, which hears recordings: --model {about['hears']}" in str(notes)


def test_the_video_of_a_frame_is_played_from_there(tapes):
    page, folder = tapes
    every = [page.get(f"/api/libraries/tapes/pictures/{one['id']}").json() for one in hits_of(page, "tapes")]
    frames = [one for one in every if one["seconds"] is not None]
    assert [round(one["seconds"]) for one in sorted(frames, key=lambda one: one["seconds"])] in ([1, 3], [0, 2], [1, 2])
    there = f"/api/libraries/tapes/pictures/{frames[0]['id']}/video"
    answer = page.get(there, headers={"range": "bytes=4-7"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (206, b"ftyp", "video/mp4")
    other = next(one["id"] for one in every if one["seconds"] is None)
    assert page.get(f"/api/libraries/tapes/pictures/{other}/video").status_code == 404
    (folder / "film.mp4").rename(folder.parent / "elsewhere.mp4")
    (folder / "film.mp4").symlink_to(folder.parent / "elsewhere.mp4")  # leads out of what was indexed
    assert page.get(there).status_code == 404


def hits_of(page: TestClient, lib: str) -> list[dict]:
    return page.get(f"/api/libraries/{lib}/search").json()["hits"]


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


def test_a_correction_is_shown_and_taken_back(page):
    one = hits(page, q="label:b")[0]["id"]
    here = f"/api/libraries/photos/pictures/{one}"
    before = page.get(here).json()
    box = {"text": "a nose", "box": [0.1, 0.2, 0.5, 0.6]}
    changed = page.patch(here, json={"labels": ["dog", "b"], "caption": "a <b>dog</b>", "boxes": [box]}).json()
    assert (changed["labels"], changed["boxes"]) == (["dog", "b"], [box])
    assert changed["caption"] == {"text": "a <b>dog</b>", "machine": False}
    assert [h["id"] for h in hits(page, q="label:dog")] == [one]
    half = page.patch(here, content=b'{"labels": ["\\ud800"]}', headers={"content-type": "application/json"})
    assert half.json()["labels"] == ["\\ud800"], "half of a character is no text, and written as JSON has it"
    page.post("/api/libraries/photos/undo").raise_for_status()
    page.patch(here, json={"caption": ""}).raise_for_status()
    undone = page.post("/api/libraries/photos/undo").json()
    assert undone == {"id": one, "changed": ["captions"], "left": 1}
    assert page.get(here).json()["caption"]["text"] == "a <b>dog</b>"
    page.post("/api/libraries/photos/undo").raise_for_status()
    assert page.get(here).json() == before
    assert page.post("/api/libraries/photos/undo").status_code == 409


@pytest.mark.parametrize("box", [[0.5, 0, 0.1, 1], [0, 0, 2, 1], [0, 0, 1]])
def test_a_wrong_box_is_refused(page, box):
    one = hits(page)[0]["id"]
    answer = page.patch(f"/api/libraries/photos/pictures/{one}", json={"boxes": [{"text": "x", "box": box}]})
    assert answer.status_code == 400 and answer.json()["error"]


def test_a_word_is_taught_asked_about_corrected_and_forgotten(page):
    ids = [one["id"] for one in hits(page)]
    taught = page.post("/api/libraries/photos/concepts", json={"name": "our cat", "examples": ids[:2]}).json()
    assert (taught["name"], taught["examples"]) == ("our cat", 2)
    (known,) = page.get("/api/libraries/photos/concepts").json()["concepts"]
    assert known["name"] == "our cat" and set(known["pictures"]) == set(ids[:2])
    here = "/api/libraries/photos/concepts/our cat"
    asked = page.get(f"{here}/uncertain").json()["uncertain"]
    assert asked and not {one["id"] for one in asked} & set(ids[:2])
    learned = page.post(f"{here}/answers", json={"yes": [ids[2]], "no": [ids[3], ids[4]]}).json()
    assert (learned["examples"], learned["negatives"]) == (3, 2)
    page.patch(f"/api/libraries/photos/pictures/{ids[5]}", json={"words": {"our cat": True}}).raise_for_status()
    assert page.get(f"{here}/uncertain").json()["examples"] == 4
    page.post("/api/libraries/photos/undo").raise_for_status()
    assert page.get(f"{here}/uncertain").json()["examples"] == 3
    assert "our cat" in [o["text"] for o in page.get("/api/libraries/photos/complete?q=our").json()["options"]]
    page.delete(here).raise_for_status()
    assert page.get("/api/libraries/photos/concepts").json() == {"concepts": []}
    assert page.get(f"{here}/uncertain").status_code == 400


def test_fields_and_their_values_are_completed(page):
    def texts(query: str) -> list[str]:
        return [
            one["insert"] for one in page.get("/api/libraries/photos/complete", params={"q": query}).json()["options"]
        ]

    assert texts("dog la")[0] == "label:"
    assert texts("label:") == ["a ", "b "]
    assert texts("-has:g") == ["gps ", "tag "]
    answer = page.get("/api/libraries/photos/complete", params={"q": "x label:a y", "at": 9}).json()
    assert (answer["start"], answer["end"]) == (8, 9)


def test_a_dropped_picture_finds_those_like_it(page, photos, monkeypatch):
    monkeypatch.setattr("neocog.library.view.View.embed", lambda view, model, pictures: Bytes().embed(pictures))
    data = (photos / "a" / "0.png").read_bytes()
    answer = page.post("/api/libraries/photos/search", files={"picture": data}, data={"box": "0,0,1,1"}).json()
    assert answer["hits"][0]["name"] == "0.png" and "/tmp" not in answer["understood"]


class Bytes(Tiny):
    """Sees encoded pictures, too."""

    def embed(self, pictures):
        return super().embed(np.stack([prepare(one, self.preprocess) for one in pictures]))


def test_a_file_that_is_called_like_a_script_is_data(page):
    named = [one["name"] for one in hits(page)] + [
        path for one in hits(page) for path in page.get(f"/api/libraries/photos/pictures/{one['id']}").json()["files"]
    ]
    assert any("<img src=x onerror=alert(1)>.jpg" in name for name in named)
    assert page.get("/api/libraries/photos/search").headers["content-type"] == "application/json"


def test_the_rest_of_what_a_page_asks(page):
    facts = page.get("/api/libraries/photos").json()
    assert (facts["pictures"], facts["files"], facts["labels"]["a"]) == (10, 11, 6)
    assert page.get("/api/libraries/photos/timeline").json() == {"months": [], "undated": 10}
    assert page.get("/api/libraries/photos/places").json() == {"named": [], "points": []}
    (group,) = page.get("/api/libraries/photos/duplicates?level=exact").json()["groups"]
    assert len(group["pictures"]) == 2
    assert page.get("/api/libraries/nowhere/search").status_code == 404


def test_only_a_net_that_has_seen_the_pictures_can_be_searched_with(page):
    about = page.get("/api/libraries/photos").json()
    assert about["model"] in about["models"]
    answer = page.post("/api/libraries/photos/model", json={"name": about["model"]}).json()
    assert answer == {"model": about["model"], "sounds": None}
    refused = page.post("/api/libraries/photos/model", json={"name": "../other"})
    assert refused.status_code == 404 and about["model"] in refused.json()["error"]


def test_a_map_is_made_by_a_job_and_kept(page, photos, monkeypatch):
    monkeypatch.setattr(
        page.app.app.state.served.jobs, "start", lambda kind, *_, **settings: {"kind": kind, **settings}
    )
    answer = page.get("/api/libraries/photos/map")
    assert answer.status_code == 202 and answer.json()["job"]["kind"] == "map"
    store = page.app.app.state.served.library("photos").store
    keep_map(store, store.vectors("tiny")[0].tolist(), np.linspace(0, 1, 20).reshape(10, 2), "by hand")
    kept = page.get("/api/libraries/photos/map").json()
    assert len(kept["ids"]) == len(kept["x"]) == len(kept["y"]) == 10 and min(kept["x"]) == 0


def test_a_search_by_word_loads_no_torch(photos):
    """In a process of its own; nor does a list of runs."""
    code = (
        "import sys; from neocog.library import Library; from neocog.library.asking import Asking\n"
        "from neocog.web.app import make_app; from neocog.web.served import Served\n"
        "served = Served([sys.argv[1]]); make_app(served); print(served.library('photos').page('red')['total'])\n"
        "assert not {'torch', 'lancedb', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, photos], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
