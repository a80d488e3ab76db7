"""Jobs, trainings and networks: started, watched, stopped, looked into."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from library.tiny import fill, picture
from PIL import Image
from starlette.testclient import TestClient

import neocog
from neocog.errors import UsageError
from neocog.library import Library
from neocog.library.store import Store
from neocog.tasks.detect import Detections
from neocog.web import jobs as jobs_module
from neocog.web import worker
from neocog.web.app import make_app
from neocog.web.jobs import Jobs
from neocog.web.served import Served

DRAWN = "drawn:n=60,size=32"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a small finished run in runs/."""
    folder = tmp_path_factory.mktemp("home")
    fields = {"min_steps": 4, "batch_size": 16}
    neocog.train(
        DRAWN, net="lenet5", epochs=1, out=folder / "runs" / "shapes", diagnosis=False, progress=False, set=fields
    )
    return folder


@pytest.fixture(scope="module")
def page(home) -> TestClient:
    return TestClient(make_app(Served(beside=home / "runs", jobs=home / "jobs")), base_url="http://localhost:8080")


def test_runs_are_found_in_their_folder(page):
    one = {run["name"]: run for run in page.get("/api/runs").json()["runs"]}["shapes"]  # others may be there by now
    assert (one["name"], one["net"], one["task"], one["state"]) == ("shapes", "lenet5", "label", "done")
    assert one["best"]["name"] == "test_accuracy" and one["sees"]


def test_a_run_tells_its_records(page):
    one = page.get("/api/runs/shapes").json()
    assert {"start", "epoch", "metrics", "end"} <= {record["kind"] for record in one["records"]}
    assert one["goal"] == "val_accuracy"
    assert page.get("/api/compare?run=shapes&run=shapes").json()["runs"] == [one, one]


def test_events_give_the_log_from_a_record_on_and_end_with_the_run(page):
    records = page.get("/api/runs/shapes").json()["records"]
    text = page.get("/api/runs/shapes/events", params={"after": len(records) - 2}).text
    assert text.count("event: record") == 2 and text.rstrip().endswith("}")
    assert json.loads(text.split("event: state\ndata: ")[1])["state"] == "done"


def test_the_network_has_layers_with_their_figures(page):
    made = page.get("/api/runs/shapes/network").json()
    first = made["layers"][0]
    assert first["kind"] == "Conv2d" and first["params"] > 0 and first["macs"] > 0 and first["field"] == "5 × 5"
    assert made["svg"].startswith("<svg")


def test_a_picture_is_looked_at(page, tmp_path):
    picture(1, 32).save(tmp_path / "one.png")
    files = {"picture": (tmp_path / "one.png").read_bytes()}
    layer = page.get("/api/runs/shapes/network").json()["layers"][0]["name"]
    seen = page.post("/api/runs/shapes/look", files=files, data={"layer": layer, "cover": "0,0,1,1"}).json()
    assert seen["map"].startswith("data:image/") and seen["units"][0]["map"].startswith("data:image/png")
    assert seen["covered"] != seen["answers"]
    unit = seen["units"][0]["unit"]
    assert page.post("/api/runs/shapes/look", files=files, data={"layer": layer, "unit": unit}).json()["told"]
    said = page.post("/api/runs/shapes/predict", files=files).json()
    assert said["answer"]["label"] == seen["answers"][0]["name"]
    assert said["answer"]["label"] in said["text"] and said["drawn"] is None and said["boxes"] == []


def test_what_a_run_finds_is_drawn_on_the_picture(page, tmp_path, monkeypatch):
    found = Detections("x", ("star",), np.float32([[8, 12, 24, 60]]), np.float32([0.9]), np.array([0]))
    monkeypatch.setattr("neocog.fit.predict", lambda run, pictures: [found])
    Image.new("RGB", (32, 48)).save(tmp_path / "x.png")
    files = {"picture": ("x.png", (tmp_path / "x.png").read_bytes())}
    said = page.post("/api/runs/shapes/predict", files=files).json()
    assert said["boxes"] == [{"text": "star", "box": [0.25, 0.25, 0.75, 1.0]}]
    drawn = Image.open(io.BytesIO(base64.b64decode(said["drawn"].partition(",")[2])))
    assert 2 * drawn.height == 3 * drawn.width and np.asarray(drawn).any()


def test_a_unit_shows_what_it_likes(page):
    layer = page.get("/api/runs/shapes/network").json()["layers"][0]["name"]
    one = page.get(f"/api/runs/shapes/units/{layer}/0").json()
    assert one["field"] == "5 × 5" and one["patches"] and one["weights"]
    assert page.get(f"/api/runs/shapes/units/{layer}/999").status_code == 400


def test_filters_errors_and_report(page):
    assert page.get("/api/runs/shapes/filters").content.startswith(b"\x89PNG")
    for wrong in page.get("/api/runs/shapes/errors").json()["errors"]:
        assert wrong["said"] != wrong["true"] and wrong["picture"].startswith("data:image/")
    report = page.get("/api/runs/shapes/report")
    assert "sandbox" in report.headers["content-security-policy"]


def ended(page: TestClient, id: str) -> dict:
    """The job when its events have ended."""
    text = page.get(f"/api/jobs/{id}/events").text
    return json.loads(text.rstrip().rpartition("data: ")[2])


def test_a_training_is_stopped_and_resumed(page, home):
    """Stopped as Ctrl-C does, then resumed to its end; the page watches by the log."""
    small = {"kind": "train", "data": DRAWN, "net": "lenet5", "batch": 16}
    job = page.post("/api/jobs", json={**small, "epochs": 500}).json()
    run = job["run"]
    while not any(one["kind"] == "epoch" for one in page.get(f"/api/runs/{run}").json()["records"]):
        assert page.get(f"/api/jobs/{job['id']}").json()["state"] == "running"
        time.sleep(0.05)
    assert page.get(f"/api/runs/{run}").json()["state"] == "running"
    wrong = page.get(f"/api/runs/{run}/errors").json()["errors"]  # those of now
    assert wrong and all(one["said"] != one["true"] and 0 < one["probability"] <= 1 for one in wrong)
    page.post(f"/api/runs/{run}/stop")
    assert ended(page, job["id"])["state"] == "cancelled"
    assert page.get(f"/api/runs/{run}").json()["state"] == "stopped"
    # a server that is started again knows it
    assert Jobs(home / "jobs").get(job["id"])["state"] == "cancelled"
    page.post(f"/api/runs/{run}/resume").raise_for_status()
    again = page.get("/api/jobs").json()["jobs"][0]
    assert again["kind"] == "resume" and again["state"] == "running"
    assert page.post(f"/api/runs/{run}/resume").status_code == 409
    page.delete(f"/api/jobs/{again['id']}")
    assert ended(page, again["id"])["state"] == "cancelled"


def when_over(jobs: Jobs, id: str) -> dict:
    while (found := jobs.get(id))["state"] == "running":
        time.sleep(0.02)
    return found


def test_a_killed_worker_says_so(tmp_path):
    jobs = Jobs(tmp_path)
    job = jobs.start("train", "Train", data="drawn:n=40,size=32", options={"epochs": 900.0}, folder=str(tmp_path / "r"))
    os.kill(int((tmp_path / job["id"] / "pid").read_text()), signal.SIGKILL)
    for one in (jobs, Jobs(tmp_path)):
        found = when_over(one, job["id"])
        assert found["state"] == "crashed" and "ended without a word" in found["error"]


def test_a_job_that_is_seen_while_it_starts_has_not_crashed(tmp_path, monkeypatch):
    jobs, seen = Jobs(tmp_path), []
    write = jobs_module.write_atomically

    def written(path, content):
        write(path, content)
        seen.append(jobs.get(path.parent.name)["state"])

    monkeypatch.setattr(jobs_module, "write_atomically", written)
    jobs.start("map", "Map", store="nowhere")
    assert seen and set(seen) == {"running"}


def test_a_job_that_cannot_be_done_says_why(tmp_path):
    jobs = Jobs(tmp_path)
    job = jobs.start("teach", "Teach", store=str(tmp_path / "nowhere"), name="x", examples=[], negatives=[])
    found = when_over(jobs, job["id"])
    assert found["state"] == "failed" and "nowhere" in found["error"]


def test_too_many_jobs_are_refused(tmp_path, monkeypatch):
    jobs = Jobs(tmp_path)
    monkeypatch.setattr(jobs, "list", lambda: [{"state": "running"}] * 4)
    with pytest.raises(UsageError, match="4 jobs are running already"):
        jobs.start("map", "Map")


@pytest.mark.parametrize(
    "data", ["/etc", "../photos", "library:nowhere", "s3://bucket/x", "http://example.org/x", "drawn:n=$(id)"]
)
def test_only_known_pictures_are_trained_on(page, data):
    answer = page.post("/api/jobs", json={"kind": "train", "data": data})
    assert answer.status_code in (400, 404) and answer.json()["error"]


def test_runs_that_see_no_pictures_are_not_asked_about_them(tmp_path):
    Store.create(tmp_path / "photos" / ".neocog")
    (tmp_path / "runs" / "words").mkdir(parents=True)
    (tmp_path / "runs" / "words" / "run.json").write_text("{}")
    (tmp_path / "runs" / "words" / "net.json").write_text(json.dumps({"reader": {"kind": "text"}}))
    served = Served([tmp_path / "photos"], beside=tmp_path / "runs", jobs=tmp_path / "jobs")
    page = TestClient(make_app(served), base_url="http://localhost:8080")
    for answer in (
        page.post("/api/jobs", json={"kind": "predict", "library": "photos", "run": "words"}),
        page.post("/api/runs/words/predict", files={"picture": b"x"}),
    ):
        assert answer.status_code == 400 and "does not answer about pictures" in answer.json()["error"]


def test_what_counted_lies_over_the_picture_where_the_net_looked(home):
    fill(home / "photos", 4, side=40)
    Library.beside(home / "photos").index(home / "photos", net=home / "runs" / "shapes")
    page = TestClient(make_app(Served([home / "photos"], jobs=home / "jobs")), base_url="http://localhost:8080")
    one = page.get("/api/libraries/photos/search?limit=1").json()["hits"][0]["id"]
    worker.map({"store": str(home / "photos")})
    assert len(page.get("/api/libraries/photos/map").json()["ids"]) == 4
    job = {"id": "ab" * 8, "kind": "predict", "title": "x", "started": 0.0, "store": str(home / "photos")}
    (home / "jobs" / job["id"]).mkdir(parents=True)
    (home / "jobs" / job["id"] / "job.json").write_text(json.dumps({**job, "folder": str(home / "runs" / "shapes")}))
    assert page.get(f"/api/jobs/{job['id']}/answers").status_code == 404
    broken, whole = home / "photos" / "b" / "1.jpg", (home / "photos" / "b" / "1.jpg").read_bytes()
    broken.write_bytes(b"broken")
    worker.main(home / "jobs" / job["id"])
    broken.write_bytes(whole)
    done = TestClient(make_app(Served([home / "photos"], jobs=home / "jobs")), base_url="http://localhost:8080")
    result = done.get(f"/api/jobs/{job['id']}").json()["result"]
    assert sum(result.values()) == 4 and result["not read"] == 1
    answers = [json.loads(line) for line in done.get(f"/api/jobs/{job['id']}/answers").text.splitlines()]
    assert sum("label" in one for one in answers) == 3
    assert [one.keys() for one in answers if "label" not in one] == [{"id", "problem"}]
    here = f"/api/libraries/photos/pictures/{one}/heatmap"
    with Image.open(io.BytesIO(page.get(here).content)) as laid:
        assert laid.mode == "RGBA" and laid.size == (320, 320)
    named = page.get(f"/api/libraries/photos/pictures/{one}").json()["concepts"]
    for concept in named[:1]:
        assert page.get(here, params={"what": concept["name"]}).status_code == 200
    assert page.get(here, params={"what": "zebra crossing"}).status_code == 400
