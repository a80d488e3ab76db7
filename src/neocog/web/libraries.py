"""Routes about libraries: search, pictures, corrections, words."""

from __future__ import annotations

import mimetypes
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, HTTPException, Path, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

import neocog
from neocog.data.named import at_hand as data_names
from neocog.fit.watching import told
from neocog.library import copies, editing, overview, teaching
from neocog.library.asking import MOST, Asking
from neocog.library.gallery import SIDES, film, kept_thumbnail, original, thumbnail
from neocog.names import shown
from neocog.web.served import Served

router = APIRouter(tags=["libraries"])

Lib = Annotated[str, Path(description="The name of a library, as /api/state gives it.", max_length=200)]
Id = Annotated[str, Path(description="The hash of a picture's content.", pattern="^[0-9a-f]{32}$")]
Word = Annotated[str, Path(description="A taught word.", max_length=100)]
Text = Annotated[str, Query(description="The query language: words, fields, -not, OR.", max_length=4000)]
Box = Annotated[str, Query(description="x0,y0,x1,y1 in fractions of the example's width and height.", max_length=100)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]
Limit = Annotated[int, Query(ge=1, le=MOST)]
Net = Annotated[str | None, Query(max_length=200, description="Which net's vectors and words; default: the usual.")]
Threshold = Annotated[float | None, Query(ge=0, le=1, description="Least score of a hit; default: calibrated.")]
VIDEO: Any = {200: {"content": {"video/*": {}}}, 206: {"description": "the range that was asked for"}}
AUDIO: Any = {200: {"content": {"image/*": {}, "audio/wav": {}}}}
PICTURE: Any = {200: {"content": {"image/*": {}}}, 304: {"description": "it is as the browser has it"}}
_KEEP = {"cache-control": "private, max-age=31536000, immutable"}


Hash = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class Problem(BaseModel):
    """What went wrong, in a sentence that says what to do."""

    error: str


class NamedBox(BaseModel):
    """A part of a picture, and what is in it."""

    text: str = Field(max_length=200)
    box: list[float] = Field(min_length=4, max_length=4, description="x0, y0, x1, y1 in fractions.")


class Correction(BaseModel):
    """What is to be known of a picture from now on; what is left out stays."""

    labels: list[str] | None = Field(None, max_length=200)
    caption: str | None = Field(None, max_length=2000)
    boxes: list[NamedBox] | None = Field(None, max_length=200)
    words: dict[str, bool] | None = Field(None, description="Taught word -> whether the picture shows it.")


class Lesson(BaseModel):
    """A word, and pictures that show it (or do not)."""

    name: str = Field(min_length=1, max_length=100)
    examples: list[Hash] = Field(min_length=1, max_length=2000)
    negatives: list[Hash] = Field([], max_length=2000)


class Model(BaseModel):
    """One of the nets that have seen a library."""

    name: str = Field(max_length=200)


class Answers(BaseModel):
    """Pictures that show a word, and pictures that do not."""

    yes: list[Hash] = Field([], max_length=2000)
    no: list[Hash] = Field([], max_length=2000)


def served(request: Request) -> Served:
    """The `Served` of this application."""
    return request.app.state.served  # type: ignore[no-any-return]


def asking(request: Request, lib: str) -> Asking:
    """The library of that name."""
    return served(request).library(lib)


def corners(text: str) -> tuple[float, float, float, float] | None:
    """The numbers of a box; None for an empty text. Raises: HTTPException."""
    if not text:
        return None
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        x0 = y0 = x1 = y1 = -1.0
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise HTTPException(400, f"expected a box such as 0.1,0.2,0.5,0.6, in fractions, got {text!r}")
    return x0, y0, x1, y1


@router.get("/state")
def state(request: Request) -> dict[str, Any]:
    """Version, libraries, runs and jobs."""
    found = served(request)
    return {
        "version": neocog.__version__,
        "libraries": [
            {
                "id": name,
                "name": name,
                "pictures": len(one.store),
                "holds": one.store.holds(),
                "read_only": one.store.read_only,
            }
            for name, one in found.libraries.items()
        ],
        "runs": [{"id": name, "name": name, **told(folder)} for name, folder in found.runs.items()],
        "jobs": found.jobs.list(),
        "data": data_names(),
    }


@router.get("/libraries/{lib}")
def library(request: Request, lib: Lib) -> dict[str, Any]:
    """Counts, folders, tags, words taught, dates, places, and what a search can ask here."""
    return {"id": lib, "name": lib, **overview.overview(asking(request, lib).store)}


@router.post("/libraries/{lib}/model")
def use_model(request: Request, lib: Lib, model: Model) -> dict[str, Any]:
    """Search pictures with another of the nets that have seen them, or recordings with another; `sounds`: theirs."""
    store = asking(request, lib).store
    if model.name not in store.models():
        raise HTTPException(404, f"{model.name!r} has not seen {lib}; those that have: {', '.join(store.models())}")
    store.use_model(model.name)
    return {"model": store.model, "sounds": store.model_of(sounds=True)}


@router.get("/libraries/{lib}/search")
def search(
    request: Request, lib: Lib, q: Text = "", like: Annotated[str, Query(max_length=32)] = "", box: Box = "",
    model: Net = None, threshold: Threshold = None, offset: Offset = 0, limit: Limit = 60,
) -> dict[str, Any]:  # fmt: skip
    """Hits, best first, each with its reasons; all pictures, newest first, where nothing is asked."""
    page = asking(request, lib).page
    return page(q, like=like, box=corners(box), model=model, threshold=threshold, offset=offset, limit=limit)


@router.post("/libraries/{lib}/search")
def search_by_picture(
    request: Request,
    lib: Lib,
    picture: Annotated[UploadFile, File(description="The example: a picture or a recording.")],
    q: Annotated[str, Form(max_length=4000)] = "",
    box: Annotated[str, Form(max_length=100)] = "",
    model: Annotated[str | None, Form(max_length=200)] = None,
    threshold: Annotated[float | None, Form(ge=0, le=1)] = None,
    offset: Annotated[int, Form(ge=0, le=10_000_000)] = 0,
    limit: Annotated[int, Form(ge=1, le=MOST)] = 60,
) -> dict[str, Any]:
    """The same for a picture or recording that was dropped or pasted; it is not kept."""
    page, data = asking(request, lib).page, picture.file.read()
    given: dict[str, Any] = {"upload": data, "name": picture.filename or "", "box": corners(box), "model": model}
    return page(q, **given, threshold=threshold, offset=offset, limit=limit)


@router.get("/libraries/{lib}/complete")
def complete(
    request: Request, lib: Lib, q: Text = "", at: Annotated[int | None, Query(ge=0, le=4000)] = None
) -> dict[str, Any]:
    """What may be typed next."""
    return overview.complete(asking(request, lib).store, q, at)


@router.get("/libraries/{lib}/timeline")
def timeline(request: Request, lib: Lib) -> dict[str, Any]:
    """How many pictures were taken in each month."""
    return overview.timeline(asking(request, lib).store)


@router.get("/libraries/{lib}/places")
def places(request: Request, lib: Lib) -> dict[str, Any]:
    """Where pictures were taken."""
    return overview.places(asking(request, lib).store)


@router.get("/libraries/{lib}/map", responses={202: {"description": "it is being made: {job}"}})
def plane(request: Request, response: Response, lib: Lib) -> dict[str, Any]:
    """Where each picture lies in a plane, alike ones near: ids, x, y. Where there is none yet, a job makes it."""
    store, jobs = asking(request, lib).store, served(request).jobs
    if (known := overview.kept_map(store)) is not None:
        return known
    response.status_code = 202
    same = [one for one in jobs.list() if one["kind"] == "map" and one.get("library") == lib]
    at_work = next((one for one in same if one["state"] == "running"), None)
    return {"job": at_work or jobs.start("map", f"Map of {lib}", library=lib, store=str(store.folder))}


@router.get("/libraries/{lib}/duplicates")
def duplicates(
    request: Request, lib: Lib, level: Literal["exact", "near", "similar"] = "near", limit: Limit = 200
) -> dict[str, Any]:
    """Groups of duplicates, the best picture of each first."""
    groups = copies.duplicates(asking(request, lib).store, level)
    return {
        "total": len(groups),
        "groups": [
            {
                "level": group.level,
                "superfluous": group.superfluous,
                "pictures": [
                    {"id": c.hash, "name": shown(c.path.name), "width": c.width, "height": c.height, "bytes": c.size}
                    for c in group.copies
                ],
            }
            for group in groups[:limit]
        ],
    }


@router.get("/libraries/{lib}/pictures/{id}")
def picture(request: Request, lib: Lib, id: Id) -> dict[str, Any]:
    """All that is known of a picture."""
    return overview.picture(asking(request, lib).store, id)


@router.get("/libraries/{lib}/pictures/{id}/thumbnail", response_class=Response, responses=PICTURE)
async def small(
    request: Request, lib: Lib, id: Id, size: Annotated[int, Query(json_schema_extra={"enum": list(SIDES)})] = 320
) -> Response:
    """A JPEG of the picture, at most so many pixels wide and high."""
    store, tag = asking(request, lib).store, f'"{id}-{size}"'
    if size not in SIDES:
        raise HTTPException(400, f"expected a size of {', '.join(map(str, SIDES))}, got {size}")
    headers = {**_KEEP, "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, headers)
    try:
        data = kept_thumbnail(store, id, size).read_bytes()  # no thread: it takes less than the way to one
    except OSError:
        data = await run_in_threadpool(thumbnail, store, id, size)
    return Response(data, media_type="image/jpeg", headers=headers)


@router.get("/libraries/{lib}/pictures/{id}/file", response_class=Response, responses=PICTURE | AUDIO)
def file(request: Request, lib: Lib, id: Id) -> Response:
    """The picture's file; as a JPEG where browsers cannot show it. A part of a recording is a WAV file."""
    store, tag = asking(request, lib).store, f'"{id}"'
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, {**_KEEP, "etag": tag})
    data, kind = original(store, id)
    return Response(data, media_type=kind, headers={**_KEEP, "etag": tag})


@router.get("/libraries/{lib}/pictures/{id}/video", response_class=FileResponse, responses=VIDEO)
def video(request: Request, lib: Lib, id: Id) -> FileResponse:
    """The video file that a frame is of, or a range of its bytes."""
    path = film(asking(request, lib).store, id)
    return FileResponse(path, media_type=mimetypes.guess_type(path)[0] or "video/mp4")


@router.get("/libraries/{lib}/pictures/{id}/neighbours")
def neighbours(request: Request, lib: Lib, id: Id, limit: Limit = 12) -> dict[str, Any]:
    """The pictures most like it."""
    return {"neighbours": overview.neighbours(asking(request, lib).store, id, limit)}


@router.patch("/libraries/{lib}/pictures/{id}")
def correct(request: Request, lib: Lib, id: Id, correction: Correction) -> dict[str, Any]:
    """Correct labels, caption, boxes or words of a picture; returns what is known of it now."""
    store = asking(request, lib).store
    editing.change(store, id, **correction.model_dump())
    return overview.picture(store, id)


@router.post("/libraries/{lib}/undo")
def undo(request: Request, lib: Lib) -> dict[str, Any]:
    """Take the last correction back."""
    done = editing.undo(asking(request, lib).store)
    if done is None:
        raise HTTPException(409, "there is no correction to take back")
    return done


@router.get("/libraries/{lib}/concepts")
def concepts(request: Request, lib: Lib) -> dict[str, Any]:
    """The words that were taught."""
    return {"concepts": teaching.lessons(asking(request, lib).store)}


@router.post("/libraries/{lib}/concepts")
def teach(request: Request, lib: Lib, lesson: Lesson) -> dict[str, Any]:
    """Teach a word from pictures of the library; all of it is tagged at once."""
    return _taught(teaching.teach(asking(request, lib).store, lesson.name, lesson.examples, lesson.negatives))


@router.get("/libraries/{lib}/concepts/{word}/uncertain")
def uncertain(
    request: Request, lib: Lib, word: Word, count: Annotated[int, Query(ge=1, le=100)] = 12
) -> dict[str, Any]:
    """How well a word is known, and the pictures whose answer would help most."""
    return _taught(teaching.progress(asking(request, lib).store, word, count))


@router.post("/libraries/{lib}/concepts/{word}/answers")
def answer(request: Request, lib: Lib, word: Word, answers: Answers) -> dict[str, Any]:
    """Say which pictures show a word and which do not; it is learned again at once."""
    said = [(one, True) for one in answers.yes] + [(one, False) for one in answers.no]
    return _taught(teaching.correct_all(asking(request, lib).store, word, said))


@router.delete("/libraries/{lib}/concepts/{word}")
def forget(request: Request, lib: Lib, word: Word) -> dict[str, Any]:
    """Forget a word, with its examples, answers and tags."""
    teaching.forget(asking(request, lib).store, word)
    return {"forgotten": word}


def _taught(taught: Any) -> dict[str, Any]:
    return {
        "name": taught.name, "examples": taught.examples, "negatives": taught.negatives, "tagged": taught.tagged,
        "changed": taught.changed, "share": taught.share, "quality": taught.quality, "notes": list(taught.notes),
        "uncertain": [
            {"id": one.hash, "name": shown(one.path.rpartition("/")[2]), "probability": one.probability}
            for one in taught.uncertain
        ],
    }  # fmt: skip
