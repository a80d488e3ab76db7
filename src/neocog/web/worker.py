"""The process of one job: ``python -m neocog.web.worker FOLDER``. It prints how far it is, and writes how it ended."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neocog.errors import NeocogError
from neocog.files import write_atomically
from neocog.fit import show
from neocog.fit.show import interruptible
from neocog.names import json_text


def train(job: dict[str, Any]) -> Any:
    """Train a new run, or begin one anew that was stopped before its first checkpoint."""
    from neocog.fit import train

    return train(job["data"], **job["options"], out=job["folder"]).metrics


def resume(job: dict[str, Any]) -> Any:
    """Continue a stopped run."""
    from neocog.fit import resume

    return resume(job["folder"]).metrics


def index(job: dict[str, Any]) -> Any:
    """Bring a library up to date, perhaps with another net."""
    from neocog.library import Library

    with show.Show().count("indexing") as progress, interruptible() as stopped:
        report = Library(job["store"]).index(
            net=job.get("net"),
            progress=progress,
            say=lambda text: print(text, file=sys.stderr, flush=True),
            stop=stopped,
        )
    if report.interrupted:
        raise KeyboardInterrupt
    return str(report)


def map(job: dict[str, Any]) -> Any:
    """Lay the pictures of a library out in a plane."""
    from neocog.library import Library
    from neocog.library.overview import keep_map
    from neocog.look.plane import LARGE, space

    store = Library(job["store"]).store
    hashes, vectors = store.vectors(store.model or "")
    method = "tsne"
    if len(vectors) > LARGE:
        try:
            import openTSNE  # noqa: F401
        except ImportError:
            method = "pca"
    much = store.holds(store.model)
    print(f"laying out {much} by {method}", file=sys.stderr, flush=True)
    made = space(vectors, lambda row: b"", [str(h) for h in hashes], method=method)
    keep_map(store, made.keys, made.places, made.text)
    return much


def predict(job: dict[str, Any]) -> Any:
    """Let a run answer for all pictures of a library; the answers are kept beside the job."""
    from neocog.data.places import is_there
    from neocog.data.stores import is_sound
    from neocog.fit import predict
    from neocog.library import Library
    from neocog.library.view import view_of

    library = Library(job["store"])  # a view holds its store weakly
    view = view_of(library.store)
    named = {id: view.paths(row) or ("",) for row, id in enumerate(view.hashes)}
    files = {
        id: next((path for path in paths if is_there(path)), paths[0])
        for id, paths in named.items()
        if not is_sound(paths[0])  # of recordings these runs say nothing
    }
    counts: Counter[str] = Counter()
    with show.Show().bar("predicting") as bar, open(Path(job["here"]) / "answers.jsonl", "w", encoding="utf-8") as out:
        for done, (id, answer) in enumerate(zip(files, predict(job["folder"], files.values()), strict=True), 1):
            told = answer.to_json() if answer.problem is None else {"problem": answer.problem}
            out.write(json_text({"id": str(id), **told}, default=str) + "\n")
            counts["not read" if answer.problem else str(told.get("label") or "answered")] += 1
            bar(done / len(files))
    return dict(counts.most_common(50))


def teach(job: dict[str, Any]) -> Any:
    """Teach a word from pictures."""
    from neocog.library import Library

    taught = Library(job["store"]).teach(job["name"], job["examples"], job["negatives"])
    return {"name": taught.name, "tagged": taught.tagged}


KINDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "train": train, "resume": resume, "index": index, "map": map, "predict": predict, "teach": teach,
}  # fmt: skip


def main(folder: Path) -> None:
    """Do the job of a folder, and say how it ended."""
    if lock := os.environ.pop("NEOCOG_JOB_LOCK", ""):
        os.set_inheritable(int(lock), False)  # its own children do not keep the job alive
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server in the background hands on that it is ignored
    show.EVERY = 1.0
    job = {**json.loads((folder / "job.json").read_text("utf-8")), "here": str(folder)}
    try:
        if (folder / "cancelled").exists():  # its signal may have come while it was still ignored
            raise KeyboardInterrupt
        end = {"state": "done", "result": KINDS[job["kind"]](job)}
    except KeyboardInterrupt:
        end = {"state": "cancelled"}
    except NeocogError as error:
        end = {"state": "failed", "error": str(error)}
    except Exception as error:
        traceback.print_exc()
        end = {"state": "failed", "error": f"{type(error).__name__}: {error}"}
    write_atomically(folder / "end.json", json_text(end, default=str).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
