"""Routes about jobs, trainings and networks."""

from __future__ import annotations

import asyncio
import io
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path as Folder
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, HTTPException, Path, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field

from neocog.data.named import at_hand
from neocog.fit.watching import follow, free_folder, told, whole
from neocog.library.gallery import original
from neocog.web.answers import as_json
from neocog.web.jobs import OVER
from neocog.web.libraries import PICTURE, Hash, asking, corners, served
from neocog.web.served import Served

router = APIRouter(tags=["runs"])

Name = Annotated[str, Path(description="The name of a run, as /api/runs gives it.", max_length=200)]
JobId = Annotated[str, Path(description="A job, as /api/jobs gives it.", pattern="^[0-9a-f]{16}$")]
_PAUSE = 0.5  # seconds between two looks at a file
_OPEN = 2  # networks that are kept in memory
_DRAWN = 1600  # pixels of the longer side of a picture with an answer on it
_REPORT = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"


class Layer(BaseModel):
    """A convolution of a small net, and whether pooling follows."""

    filters: int = Field(ge=1, le=256)
    size: Literal[1, 3, 5, 7]
    pool: bool = True


class Work(BaseModel):
    """What is to be done; which fields count depends on `kind`."""

    kind: Literal["index", "teach", "train", "predict", "map"]
    library: str | None = Field(None, max_length=200)
    run: str | None = Field(None, max_length=200, description="predict: which run answers.")
    net: str | None = Field(
        None, max_length=200, description="train: a net of the zoo; index: a run, to search with it."
    )
    data: str | None = Field(
        None, max_length=300, description="train: library:NAME, library:NAME#word, or a named set."
    )
    minutes: float | None = Field(None, gt=0, le=600)
    epochs: float | None = Field(None, gt=0, le=1000)
    task: str | None = Field(None, max_length=50)
    rate: float | None = Field(None, gt=0, le=10)
    batch: int | None = Field(None, ge=1, le=4096)
    layers: list[Layer] | None = Field(None, min_length=1, max_length=6, description="train: a small net of these.")
    name: str | None = Field(None, max_length=100, description="teach: the word.")
    examples: list[Hash] = Field([], max_length=2000)
    negatives: list[Hash] = Field([], max_length=2000)


# --- jobs


@router.get("/jobs")
def jobs(request: Request) -> dict[str, Any]:
    """The jobs, the newest first."""
    return {"jobs": served(request).jobs.list()}


@router.post("/jobs")
def start(request: Request, work: Work) -> dict[str, Any]:
    """Begin a job; it goes on when the page is closed."""
    found, begin = served(request), served(request).jobs.start
    if work.kind == "train":
        return _train(found, work)
    lib = _needed(work.library, "library")
    at = {"library": lib, "store": str(found.library(lib).store.folder)}
    if work.kind == "index":
        net = str(found.run(work.net)) if work.net else None
        return begin("index", f"Index {lib}" + (f" with {work.net}" if work.net else ""), **at, net=net)
    if work.kind == "predict":
        run = _needed(work.run, "run")
        return begin("predict", f"{run} on {lib}", **at, folder=str(_seeing(found, run)))
    if work.kind == "teach":
        name = _needed(work.name, "name")
        return begin("teach", f"Teach {name}", **at, name=name, examples=work.examples, negatives=work.negatives)
    return begin("map", f"Map of {lib}", **at)


@router.get("/jobs/{id}")
def job(request: Request, id: JobId) -> dict[str, Any]:
    """One job."""
    return served(request).jobs.get(id)


@router.get("/jobs/{id}/events", response_class=StreamingResponse)
def job_events(request: Request, id: JobId) -> StreamingResponse:
    """The job whenever something of it changes, as server-sent events called "job", until it is over."""
    found, before = served(request).jobs, None
    found.get(id)

    def look() -> tuple[list[tuple[str, Any]], bool]:
        nonlocal before
        now = found.get(id)
        new, before = [("job", now)] if now != before else [], now
        return new, now["state"] in OVER

    return _stream(look)


@router.get("/jobs/{id}/answers", response_class=Response)
def answers(request: Request, id: JobId) -> Response:
    """What a run said of every picture of a library, JSONL: the answers of a job of kind "predict" that is done."""
    found = served(request).jobs
    path = found.folder / id / "answers.jsonl"
    if found.get(id)["state"] != "done" or not path.is_file():
        raise HTTPException(404, "this job has no answers")
    how = {"content-disposition": f'attachment; filename="answers-{id}.jsonl"'}
    return FileResponse(path, media_type="application/jsonl", headers=how)


@router.delete("/jobs/{id}")
def cancel(request: Request, id: JobId) -> dict[str, Any]:
    """Stop a job as Ctrl-C does; what it did is kept, and a training can be resumed."""
    return served(request).jobs.cancel(id)


def _train(found: Served, work: Work) -> dict[str, Any]:
    data = _needed(work.data, "data")
    lib, stem = None, re.sub(r"[^\w]+", "-", data.removeprefix("library:")).strip("-")[:40] or "run"
    if data.startswith("library:"):
        lib, _, word = data.removeprefix("library:").partition("#")
        data = f"library:{found.library(lib).store.folder}" + (f"#{word}" if word else "")
    elif data.partition(":")[0] not in at_hand() or not re.fullmatch(r"[\w:,=.]+", data):
        raise HTTPException(400, f"expected library:NAME or one of {', '.join(at_hand())}, got {data!r}")
    fields = {"lr": work.rate, "batch_size": work.batch}
    options: dict[str, Any] = {
        "minutes": 5.0 if work.minutes is None and work.epochs is None else work.minutes,
        "epochs": work.epochs, "net": work.net, "task": work.task, "offline": True,
        "set": {name: value for name, value in fields.items() if value is not None},
    }  # fmt: skip
    if work.layers:
        layers = [[x.filters, x.size, int(x.pool)] for x in work.layers]
        options |= {"net": "convnetjs", "net_options": {"layers": layers}}
    folder = free_folder(stem, found.beside or Folder("runs"))
    folder.mkdir(parents=True)
    run = found.add_run(folder)
    kept = {name: value for name, value in options.items() if value is not None}
    about = {"library": lib, "run": run, "data": data, "options": kept, "folder": str(folder)}
    return found.jobs.start("train", f"Train on {work.data}", **about)


def _needed(value: str | None, name: str) -> str:
    if not value:
        raise HTTPException(400, f"this kind of job needs {name!r}")
    return value


def _stream(look: Callable[[], tuple[list[tuple[str, Any]], bool]]) -> StreamingResponse:
    """Server-sent events: what `look` finds new, by name, again and again until it says that all is over."""

    async def events() -> AsyncIterator[str]:
        over = False
        while not over:
            new, over = await asyncio.to_thread(look)
            for name, value in new:
                yield f"event: {name}\ndata: {as_json(value)}\n\n"
            if not over:
                await asyncio.sleep(_PAUSE)

    return StreamingResponse(events(), media_type="text/event-stream")


# --- runs


@router.get("/runs")
def runs(request: Request) -> dict[str, Any]:
    """The runs, the newest first."""
    jobs = served(request).jobs.list()
    found = [_with_job(jobs, name, told(folder)) for name, folder in served(request).runs.items()]
    return {"runs": sorted(found, key=lambda one: one["started"] or "9", reverse=True)}


@router.get("/runs/{run}")
def run(request: Request, run: Name) -> dict[str, Any]:
    """All that a run's folder says: settings, notes, state, and the records of its log."""
    return _with_job(served(request).jobs.list(), run, whole(served(request).run(run)))


@router.get("/compare")
def compare(request: Request, run: Annotated[list[str], Query(min_length=1, max_length=12)]) -> dict[str, Any]:
    """Several runs side by side."""
    jobs = served(request).jobs.list()
    return {"runs": [_with_job(jobs, name, whole(served(request).run(name))) for name in run]}


@router.get("/runs/{run}/events", response_class=StreamingResponse)
def run_events(request: Request, run: Name, after: Annotated[int, Query(ge=0, le=10**9)] = 0) -> StreamingResponse:
    """The records of the log from number `after` on as they are written ("record"), and the state ("state")."""
    folder, number, before = served(request).run(run), after, None

    def look() -> tuple[list[tuple[str, Any]], bool]:
        nonlocal number, before
        now = _with_job(served(request).jobs.list(), run, told(folder))  # before the log, so that its end is not missed
        new = [("record", record) for record in follow(folder, number)]
        number += len(new)
        new += [("state", now)] if now != before else []
        before = now
        return new, now["state"] != "running"

    return _stream(look)


@router.post("/runs/{run}/stop")
def stop(request: Request, run: Name) -> dict[str, Any]:
    """Stop a training that was started here; it can be resumed."""
    found = served(request)
    found.run(run)
    for one in found.jobs.list():
        if one.get("run") == run and one["state"] == "running":
            return found.jobs.cancel(one["id"])
    raise HTTPException(409, "this training was not started here; press Ctrl-C where it was")


@router.post("/runs/{run}/resume")
def resume(request: Request, run: Name) -> dict[str, Any]:
    """Go on with a training that was stopped, exactly where it was."""
    found = served(request)
    folder = found.run(run)
    state = _with_job(served(request).jobs.list(), run, told(folder))["state"]
    if state not in ("stopped", "failed"):
        raise HTTPException(409, f"{run} is {state}")
    return found.jobs.start("resume", f"Resume {run}", run=run, folder=str(folder))


@router.get("/runs/{run}/report", response_class=Response)
def report(request: Request, run: Name) -> Response:
    """The run's report, a page of its own."""
    path = served(request).run(run) / "report.html"
    if not path.is_file():
        raise HTTPException(404, f"{run} has no report yet")
    return Response(path.read_bytes(), media_type="text/html", headers={"content-security-policy": _REPORT})


@router.get("/runs/{run}/errors")
def errors(request: Request, run: Name, limit: Annotated[int, Query(ge=1, le=200)] = 36) -> dict[str, Any]:
    """The surest wrong answers, with their pictures."""
    folder = served(request).run(run)
    from neocog.look.window import errors  # after it, so that a wrong name loads no PyTorch

    return {"errors": errors(folder, limit)}


@router.get("/runs/{run}/filters", response_class=Response, responses=PICTURE)
def filters(request: Request, run: Name) -> Response:
    """The first layer's filters as they were last saved, a PNG."""
    folder = served(request).run(run)
    from neocog.look.window import filters

    return Response(_png(filters(folder)), media_type="image/png")


# --- networks


@router.get("/runs/{run}/network")
def network(request: Request, run: Name) -> dict[str, Any]:
    """Layers with shapes, cost and receptive field, advice, and the drawing."""
    return _window(request, run).network()


@router.post("/runs/{run}/look")
def look(
    request: Request,
    run: Name,
    picture: Annotated[UploadFile | None, File(description="A picture, or `library` and `id`.")] = None,
    library: Annotated[str, Form(max_length=200)] = "",
    id: Annotated[str, Form(max_length=32)] = "",
    layer: Annotated[str, Form(max_length=200)] = "",
    unit: Annotated[int | None, Form(ge=0, le=100_000)] = None,
    what: Annotated[str | None, Form(max_length=200)] = None,
    cover: Annotated[str, Form(max_length=100)] = "",
) -> dict[str, Any]:
    """What the net says of a picture, what speaks for it, the maps of a layer, and what a covered part changes."""
    data = _picture(request, picture, library, id)
    return _window(request, run).look(data, layer=layer, unit=unit, what=what, cover=corners(cover))


@router.get("/runs/{run}/units/{layer}/{unit}")
def unit(
    request: Request,
    run: Name,
    layer: Annotated[str, Path(max_length=200)],
    unit: Annotated[int, Path(ge=0, le=100_000)],
    library: Annotated[str, Query(max_length=200)] = "",
) -> dict[str, Any]:
    """A unit's receptive field, the patches that excite it most, and what it listens to."""
    from neocog.library.gallery import sample

    pictures = sample(asking(request, library).store, 120) if library else []
    return _window(request, run).unit(layer, unit, pictures)


@router.post("/runs/{run}/predict")
def predict(
    request: Request,
    run: Name,
    picture: Annotated[UploadFile | None, File(description="A picture, or `library` and `id`.")] = None,
    library: Annotated[str, Form(max_length=200)] = "",
    id: Annotated[str, Form(max_length=32)] = "",
) -> dict[str, Any]:
    """What the net says of one picture: as JSON, as a line, and drawn on it, a data URI, where that says more.

    `boxes`: {"text", "box"} of those that it found, in fractions, as the library keeps them.
    """
    folder, data = _seeing(served(request), run), _picture(request, picture, library, id)
    import numpy as np
    from PIL import Image

    from neocog.data.decode import decode
    from neocog.fit import predict
    from neocog.page import data_uri

    (answer,) = predict(folder, [data])
    text = f"{run} cannot read it: {answer.problem}" if answer.problem else answer.text()
    told = {"answer": answer.to_json(), "text": text, "drawn": None, "boxes": []}
    if answer.problem is None and answer.gives("draw"):
        pixels = decode(data)
        drawn = Image.fromarray(answer.draw(pixels))
        drawn.thumbnail((_DRAWN, _DRAWN))
        told["drawn"] = data_uri(np.asarray(drawn), lossless=False)
        high, wide = pixels.shape[:2]
        for one in told["answer"].get("boxes", ()):
            corners = [v / side for v, side in zip(one["box"], (wide, high, wide, high), strict=True)]
            told["boxes"].append({"text": one["label"], "box": [min(1.0, max(0.0, v)) for v in corners]})
    return told


@router.get("/libraries/{lib}/pictures/{id}/heatmap", response_class=Response, responses=PICTURE, tags=["libraries"])
def heatmap(
    request: Request, lib: Annotated[str, Path(max_length=200)], id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")],
    what: Annotated[str, Query(max_length=200)] = "",
) -> Response:  # fmt: skip
    """What in a picture speaks for a word, by the net that made the library's vectors: a PNG to lay over it."""
    from neocog.web.looking import heatmap

    return Response(_png(heatmap(asking(request, lib).store, id, what)), media_type="image/png")


def _seeing(found: Served, run: str) -> Folder:
    """The folder of a run that answers about pictures."""
    folder = found.run(run)
    if not told(folder)["sees"]:
        raise HTTPException(400, f"{run} does not answer about pictures: it was trained on something else")
    return folder


def _picture(request: Request, picture: UploadFile | None, library: str, id: str) -> bytes:
    if picture is not None:
        return picture.file.read()
    if not library or not id:
        raise HTTPException(400, "expected a picture, or the library and the id of one")
    return original(asking(request, library).store, id)[0]


_windows: OrderedDict[tuple[Folder, int], Any] = OrderedDict()
_opening = threading.Lock()


def _window(request: Request, run: str) -> Any:
    """The opened network of a run; the last few are kept."""
    folder = served(request).run(run)
    from neocog.look.window import Window

    path = folder / "net.json"
    key = (folder, path.stat().st_mtime_ns if path.exists() else 0)
    with _opening:
        if key not in _windows:
            _windows[key] = Window(folder)
            while len(_windows) > _OPEN:
                _windows.popitem(last=False)
        _windows.move_to_end(key)
        return _windows[key]


def _with_job(jobs: list[dict[str, Any]], name: str, run: dict[str, Any]) -> dict[str, Any]:
    """A run, with what is known from the job that trains it: it may not have written anything yet."""
    own = next((one for one in jobs if one.get("run") == name), None)
    out = {"name": name, **run, "error": None}
    if own is not None and own["state"] == "running":
        out["state"] = "running"
    elif own is not None and own["state"] in ("failed", "crashed") and run["state"] != "done":
        out |= {"state": "failed", "error": own["error"]}
    return out


def _png(pixels: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
