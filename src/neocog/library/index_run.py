"""One run of indexing: what is new is read, decoded and computed, and saved in commits that leave the library whole."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from neocog.data import video
from neocog.data.stores import holding, is_elsewhere, is_video
from neocog.errors import DecodeError, LibraryError
from neocog.library.changes import Changes, Elsewhere, Embeds, Round, maker
from neocog.library.films import Film, Tape
from neocog.library.folders import Content, outermost, within
from neocog.library.metadata import KINDS, date_in_name
from neocog.library.photo import Photo, examine, look, moves, read_steady
from neocog.library.rows import content_hash, has_model, vector_column, whole_rows
from neocog.library.scan import Found
from neocog.records import Preprocess

COMMIT_ROWS = 1024  # pictures in one commit; a commit costs about 0.1 s
COMMIT_SECONDS = 10.0  # so much work can be lost by a kill
_BATCH = 64  # files that are waited for at a time, while twice as many are being decoded
_TASK = 16  # pictures that a net sees at a time in a thread beside decoding: few, so that no core waits at the end
_FACTS = (
    "size", "taken", "camera", "latitude", "longitude", "width", "height", "phash", "flat", "thumb", *KINDS, "reader",
)  # fmt: skip


class Run(Changes):
    """One run of `index`."""

    def __init__(
        self,
        task: Round,
        embedder: Embeds | Callable[[int], Embeds] | None,
        model: str | None,
        say: Callable[[str], object],
    ) -> None:
        usual = task.store.model_of(sounds=task.sounds)
        super().__init__(task, model or getattr(embedder, "name", None) or usual)
        self._make = maker(task.store, embedder, self.model, say, task.sounds)
        self._made: Embeds | None = None
        self.waiting: list[Photo] = []  # the net has not seen them
        self.computing: deque[tuple[list[Photo], Future[Any]]] = deque()  # batches that threads compute, in order
        self.ready: list[tuple[Photo, np.ndarray, np.ndarray]] = []
        self.pending: dict[str, Photo] = {}  # contents that are not in the table yet
        self.commits, self.saved_at = 0, time.monotonic()
        self.whole: list[Film] = []  # videos that were read to the end, until all their frames are in the table

    @property
    def long(self) -> bool:
        """Whether so much was computed that tidying up is worth its while."""
        return self.report.computed >= COMMIT_ROWS

    def preprocess(self) -> Preprocess | None:
        """How pictures are prepared, None for recordings; where the library knows it, the net need not be made."""
        if self.sounds:
            return self.embedder().preprocess
        card = self.store.models().get(self.model or "")
        if card is None or self._made is not None or "preprocess" not in card:
            return self.embedder().preprocess
        return Preprocess.from_json(card["preprocess"])

    def embedder(self) -> Embeds:
        """The net, made when it is needed; its columns are made too."""
        if self._made is None:
            made = self._make(len(self.to_read))
            if self.model not in (None, made.name):
                raise LibraryError(
                    f"expected the net {self.model!r}, got {made.name!r}; have its weights changed? Choose the net "
                    "to index with: --net NAME"
                )
            self.store.add_model(made.name, made.dimension, made.card(), classes=made.outputs)
            self.model, self._made = made.name, made
        return self._made

    def read(self, threads: int, progress: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        """Read, decode and compute what is new; decoding (threads) and computing (here, or there as well) overlap."""
        if not self.to_read:
            return
        pre, total = self.preprocess(), len(self.to_read)
        ahead: list[tuple[str, Future[Any]]] = []
        todo = iter(self.to_read)
        with ThreadPoolExecutor(threads) as pool:
            try:
                done = 0
                while True:
                    while len(ahead) < 2 * _BATCH + threads and (path := next(todo, None)) is not None:
                        ahead.append((path, pool.submit(self._look, path, pre)))
                    if not ahead:
                        break
                    now, ahead = ahead[:_BATCH], ahead[_BATCH:]
                    more = [film for path, future in now if (film := self._take(path, future))]
                    ahead[:0] = [(film.path, pool.submit(film.step, pre, self.ledger, self.model)) for film in more]
                    self._compute(pool, threads)
                    done += len(now) - len(more)
                    progress(done, total)
                    late = time.monotonic() - self.saved_at > COMMIT_SECONDS
                    if len(self.ready) >= COMMIT_ROWS or late:
                        self._compute(pool, threads, rest=True)
                        self.commit()
                    if stop():
                        self.report.interrupted = True
                        break
            except KeyboardInterrupt:  # what is computed need not be computed again
                self.commit()
                raise
            else:
                self._compute(pool, threads, rest=True)
                self.commit()
            finally:
                for _, future in ahead:
                    future.cancel()

    def gather(self, elsewhere: Elsewhere, progress: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        """Have what is new read and computed elsewhere, and save it in large commits; videos are left to read here."""
        pictures = [path for path in self.to_read if path in self.found.files]
        self.to_read = [path for path in self.to_read if path not in self.found.files]
        if not pictures:
            return
        card, total, done = self.embedder().card(), len(pictures), 0
        outcomes = elsewhere.photos([(path, self.found.files[path]) for path in pictures], card)
        left = set(pictures)
        try:
            for some in outcomes:
                for path, outcome in some:
                    if path in left:  # work that was done again after a failure counts once
                        left.discard(path)
                        self._take(path, _settled(outcome))
                self._compute()
                done = total - len(left)
                late = time.monotonic() - self.saved_at > elsewhere.commit_seconds
                if len(self.ready) >= elsewhere.commit_rows or late:
                    self.commit()
                progress(done, total)
                if stop():
                    self.report.interrupted, self.to_read = True, []
                    break
        finally:  # also after a failure of the cluster: what is computed need not be computed again
            self.commit()
            getattr(outcomes, "close", lambda: None)()

    def _look(self, path: str, pre: Preprocess | None) -> Photo | Film:
        """In a thread: read one file, and decode it if its content is new; of a video or recording, the first parts."""
        full = self._found(path).full
        if pre is None:
            return Tape.begin(path, full).step(pre, self.ledger, self.model)
        if not is_video(path):
            data, status = read_steady(full)
        if is_video(path) or (video.have() and moves(data)):
            return Film.begin(path, full).step(pre, self.ledger, self.model)
        hash = content_hash(data)
        known = self.ledger.contents.get(hash)
        if known is not None and (self.model in known.models or not known.saved):
            return Photo(hash, len(data), status.st_mtime_ns, status.st_ino)
        photo = examine(data, pre, hash, status.st_mtime_ns, status.st_ino)
        photo.taken = photo.taken or date_in_name(path)
        return photo

    def _found(self, path: str) -> Found:
        return self.found.videos.get(path) or self.found.files[path]

    def _take(self, path: str, future: Future[Any]) -> Film | None:
        """Note what a thread found: new contents, known ones, or a problem. Returns: a video that is not at its end."""
        ledger, found = self.ledger, self._found(path)
        known = [p for p in (path, *self.films.get(path, ())) if p in ledger.files]
        try:
            made: Photo | Film = future.result()
            film = made if isinstance(made, Film) else None
            if film is not None and not film.rest:
                film.check()
        except FileNotFoundError:  # deleted since it was listed
            self.lost |= set(known)
            return None
        except (DecodeError, OSError, MemoryError) as error:
            if isinstance(error, DecodeError):  # else a picture that is known stays known: the disk may be to blame
                for one in known:
                    ledger.drop(one)
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
            # A time of -1 is never met again: a file that changes all the time, or may not be read, is tried again.
            again = not isinstance(error, DecodeError) or "changes while" in reason
            self._problem(path, reason, -1 if again else found.mtime_ns, found.size)
            return None
        for place, photo in film.photos if film is not None else [(path, made)]:
            self._note(place, photo)  # type: ignore[arg-type]
        if film is not None and film.rest:
            return film
        for one in set(known) - set(film.places if film is not None else [path]):  # of an older content
            ledger.drop(one)
        self.solved.add(path)
        if film is not None:
            self.whole.append(film)
            if film.problem:
                self._problem(path, film.problem, found.mtime_ns, found.size)
        return None

    def _note(self, path: str, photo: Photo) -> None:
        """Note one picture: a file, or a frame of a video."""
        ledger, report, was = self.ledger, self.report, self.ledger.files.get(path)
        content = ledger.contents.get(photo.hash)
        if content is None:
            ledger.contents[photo.hash] = Content({}, photo.size, [], [self.model or ""], saved=False)
            self.pending[photo.hash] = photo
            self.waiting.append(photo)
            if was:
                report.changed += 1
            else:
                report.new += 1
        else:
            shown = photo.pixels is not None or photo.seen is not None
            if content.saved and self.model not in content.models and shown:
                content.models.append(self.model or "")
                self.waiting.append(photo)
            if was == photo.hash:  # the same content, with another time or without vectors
                report.unchanged += 1
            elif was:
                report.changed += 1
            else:
                absent = self.absent.get(photo.hash, ())
                old = next((p for p in absent if ledger.files.get(p) == photo.hash and self._missing(p)), None)
                if old is not None:
                    ledger.put(path, photo.mtime_ns, photo.inode, photo.hash)
                    ledger.drop(old)
                    self.lost.discard(old)
                    report.moved += 1
                elif content.gone and not content.places:
                    report.moved += 1  # it was away for a while
                else:
                    report.copies += 1
        ledger.put(path, photo.mtime_ns, photo.inode, photo.hash)

    def _compute(self, pool: ThreadPoolExecutor | None = None, threads: int = 0, rest: bool = False) -> None:
        """Let the net see what is waiting, and keep what it said.

        With a pool, whole batches only unless `rest`, and the others wait; a net that can, sees them in the pool's
        threads, each on a core of its own, where decoding and computing take turns and no core waits for another.
        """
        seen = [photo for photo in self.waiting if photo.seen is not None]
        self.waiting = [photo for photo in self.waiting if photo.seen is None]
        self._keep(seen, *([photo.seen[i] for photo in seen if photo.seen] for i in (0, 1)))
        size = min(_TASK, _BATCH) if pool and getattr(self._made, "concurrent", True) else _BATCH
        count = len(self.waiting) // size * size if pool and not rest else len(self.waiting)
        for start in range(0, count, size):
            now = self.waiting[start : start + size]
            embedder = self.embedder()
            if pool and getattr(embedder, "concurrent", False):
                self.computing.append((now, pool.submit(_seen, embedder.beside_others, now)))  # type: ignore[attr-defined]
            else:
                self._keep(now, *_seen(embedder.embed, now))
        self.waiting = self.waiting[count:]
        most = max(threads, threads * _BATCH // _TASK)
        while self.computing and (rest or len(self.computing) > most or self.computing[0][1].done()):
            photos, future = self.computing.popleft()
            self._keep(photos, *future.result())

    def _keep(self, photos: list[Photo], features: Iterable[np.ndarray], probabilities: Iterable[np.ndarray]) -> None:
        for photo, vector, chances in zip(photos, features, probabilities, strict=True):
            photo.pixels = photo.seen = None
            if not vector.any():  # a net may answer a black picture with zeros, which have no direction
                vector = np.full_like(vector, 1e-6)
            self.ready.append((photo, vector, chances))
        self.report.computed += len(photos)

    def commit(self) -> None:
        """Write what is known so far. Old owners give up a path before new ones get it: no path is ever twice."""
        ledger = self.ledger
        dirty = self._write_places()
        new = [one for one in self.ready if one[0].hash in self.pending]
        more = [one for one in self.ready if one[0].hash not in self.pending]
        if new:
            photos = [photo for photo, _, _ in new]
            hashes = [photo.hash for photo in photos]
            columns = {
                "hash": pa.array(hashes, pa.string()),
                **self.ledger.columns(hashes),
                **{name: [getattr(p, name) for p in photos] for name in _FACTS},
                "models": [ledger.contents[h].models for h in hashes],
            }
            rows = whole_rows(columns, len(new))
            self.store.add(self._with_vectors(rows, new))
        if more:
            hashes = [photo.hash for photo, _, _ in more]
            models = pa.array([ledger.contents[h].models for h in hashes], pa.list_(pa.string()))
            self.store.merge(self._with_vectors(pa.table({"hash": hashes, "models": models}), more))
        for photo, _, _ in new:
            ledger.contents[photo.hash].saved = True
            del self.pending[photo.hash]
            ledger.dirty.discard(photo.hash)
        if self.new_problems or self.solved & self.problems.keys():
            self.store.set_problems(list(self.new_problems.values()), sorted(self.solved & self.problems.keys()))
        whole, self.whole = self.whole, []
        for one in whole:
            places = [place for place in one.places if place in ledger.files]
            if not all(ledger.contents[ledger.files[place]].saved for place in places):
                self.whole.append(one)
                continue
            for place in places:
                ledger.put(place, one.status.st_mtime_ns, one.status.st_ino, ledger.files[place])
        timed = self._write_places()
        self.commits += bool(dirty or new or more or timed)
        self.ready, self.saved_at = [], time.monotonic()

    def _write_places(self) -> list[str]:
        """Write where contents that are in the table are now; return which had to be written."""
        ledger = self.ledger
        dirty = [h for h in sorted(ledger.dirty) if ledger.contents[h].saved]
        if dirty:
            self.store.merge(pa.table({"hash": pa.array(dirty, pa.string()), **ledger.columns(dirty)}))
        ledger.dirty -= set(dirty)
        return dirty

    def _with_vectors(self, rows: pa.Table, ready: list[tuple[Photo, np.ndarray, np.ndarray]]) -> pa.Table:
        vectors = np.stack([vector for _, vector, _ in ready]).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1)
        rows = rows.append_column(f"v_{self.model}", vector_column(vectors / norms[:, None]))
        rows = rows.append_column(f"n_{self.model}", pa.array(norms, pa.float32()))
        chances = np.stack([p for _, _, p in ready])
        return rows.append_column(f"p_{self.model}", vector_column(chances)) if chances.shape[1] else rows

    def finish(self) -> None:
        """Give up the paths that are lost, remember the folders, and say what remains to be said."""
        report, store = self.report, self.store
        if not report.interrupted:
            pairs = zip(self.below, self.roots, strict=True)
            now_away = [text for text, root in pairs if not is_elsewhere(text) and not _has_entries(root)]
            self.lost = {path for path in self.lost if not any(within(path, folder) for folder in now_away)}
            for path in self.lost:
                self.ledger.drop(path)
            report.gone += len(self.lost)
        self.commit()
        known = store.folders
        left = set(store.unfinished) - (set() if report.interrupted else set(self.below))
        if not self.sounds:  # pictures come last
            store.note(folders=sorted({*known, *outermost([*known, *self.below])}), unfinished=sorted(left))
        if self.model in store.models() and not report.interrupted:
            rows, usual = store.rows(["models", "paths"]), store.model_of(sounds=self.sounds)
            others = [name for name in store.models_of(sounds=not self.sounds) if name != self.model]
            seen = np.logical_or.reduce([has_model(rows, name) for name in (self.model or "", *others)])
            without = [paths[0] for paths in rows.column("paths").filter(pa.array(~seen)).to_pylist()]
            if usual is not None and store.models()[self.model or ""].get("layer"):
                pass  # vectors of another layer come in addition; searching goes on with the usual ones
            elif not without:
                store.use_model(self.model or "")
            elif usual != self.model:
                report.notes.append(
                    f"{holding(without)} of other folders have no vectors of {self.model} yet, so searching goes on "
                    f"with {usual}; index all folders with --net {self.model}"
                )


def _seen(embed: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], photos: list[Photo]) -> tuple[Any, Any]:
    """Perceptual hashes for some photos, and the net's features and probabilities of them."""
    look(photos)
    return embed(np.stack([photo.pixels for photo in photos]))  # type: ignore[misc]


def _settled(outcome: Photo | Exception) -> Future[Photo]:
    future: Future[Photo] = Future()
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


def _has_entries(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
