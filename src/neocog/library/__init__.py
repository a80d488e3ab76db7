"""Index a collection of pictures; search it by word, by example and by filter; teach it your own words.

    library = Library.beside("photos/")
    library.index("photos/")
    for hit in library.search("dog -indoor after:2023"):
        print(hit.path, round(hit.score, 2))
    library.teach("our cat", "examples/cat/")

Everything is imported when it is first used: a search by word loads no PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neocog.errors import NeocogError, UsageError
from neocog.names import shown

if TYPE_CHECKING:
    from neocog.library.changes import Embeds, Report
    from neocog.library.copies import Group
    from neocog.library.describe import Description
    from neocog.library.folders import Changed, IndexedFolder
    from neocog.library.learning import Learned
    from neocog.library.query import Query
    from neocog.library.searching import Answer
    from neocog.library.store import Store
    from neocog.library.teaching import Proposal, Taught
    from neocog.library.upkeep import Finding, Info
    from neocog.records import Problem

__all__ = ["Library"]


class Library:
    """An indexed collection, in one folder.

    `Library.beside` makes one, too.

    Args:
        folder: the library, a folder of pictures with one (``.neocog``), or the name of one that was indexed before;
            None is the one in or above this folder, else the one that was indexed last.

    Raises: LibraryError: there is no library, it is damaged, or a newer version of neocog made it.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        from neocog.library import place
        from neocog.library.store import Store

        self.store: Store = Store.open(place.find(folder))

    @classmethod
    def beside(cls, pictures: str | os.PathLike[str]) -> Library:
        """Open the library ``.neocog`` in a folder of pictures; make it if it is not there."""
        from neocog.library import place

        return cls.at(place.beside(Path(pictures).expanduser()))

    @classmethod
    def at(cls, folder: str | os.PathLike[str]) -> Library:
        """Open the library in a folder; make it if the folder is new or empty."""
        from neocog.library.store import Store

        return cls(Store.ensure(Path(folder).expanduser()).folder)

    @property
    def folder(self) -> Path:
        """Where the library is."""
        return self.store.folder

    def __len__(self) -> int:
        """Pictures whose files are there."""
        return len(self.store)

    def __repr__(self) -> str:
        return f"Library({str(self.folder)!r})"

    # --- keeping it up to date

    def index(
        self,
        *folders: str | os.PathLike[str],
        net: str | os.PathLike[str] | None = None,
        weights: str | os.PathLike[str] | None = None,
        layer: str | None = None,
        size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> Report:
        """Bring the library up to date with folders (default: those that were indexed before).

        Only what is new or changed is computed; a moved file costs nothing. It can be killed and run again.

        Args:
            net: what makes the vectors: a net of the zoo with weights available, or a run folder. Default: the net that
                the library has, else the best one with weights available.
            weights: a file, for a net of the zoo; default: its ImageNet weights.
            layer: dotted name of a layer whose vectors are made in addition, for `search(layer=...)`.
            size: pixels of the square that the net sees; a smaller one is faster and sees less.
            device: cpu, cuda, mps; default: the fastest.
            options: `exclude`, `threads`, `wait`, `progress`, `say`, `stop` and `elsewhere` of `indexing.index`.

        Raises:
            UsageError: no such folder, or no net with weights. LibraryError: the disk is full, another process
            is indexing, or the library is read-only.
        """
        from neocog.library import place
        from neocog.library.indexing import index

        place.remember(self.folder)  # before the work, so that an index that was stopped is found as well
        made = self._net(net, weights, layer, size, device, options.get("say"))
        report = index(self.store, folders, **made, **options)
        self._indexed(report)
        return report

    def watch(self, *folders: str | os.PathLike[str], interval: float = 5.0, **options: Any) -> Iterator[Report]:
        """Index again whenever something in the folders is different, and yield a report each time.

        Args:
            interval: seconds between two looks. options: those of `index`.
        """
        from neocog.library import place
        from neocog.library.indexing import watch

        place.remember(self.folder)
        chosen = {name: options.pop(name, None) for name in ("net", "weights", "layer", "size", "device")}
        net = self._net(**chosen, say=options.get("say"))
        for report in watch(self.store, folders, interval=interval, **net, **options):
            self._indexed(report)
            yield report

    def _net(
        self, net: Any, weights: Any, layer: str | None, size: int | None, device: str | None, say: Any
    ) -> dict[str, Any]:
        """What `indexing.index` needs to know of the net, which is made only if there is something to compute."""
        from neocog.library.model_names import at_layer, at_size, model_name, sound_run

        if (run := sound_run(net)) is not None:
            from neocog.library.hearing import Hearing

            if layer is not None or size is not None:
                raise UsageError("--layer and --size are for nets on pictures; leave them out for a run on recordings")
            return {"embedder": lambda amount: Hearing(run, device), "model": model_name(run), "sounds": True}
        known = self.store.models().get(str(net))  # its own name for a net with other weights than the usual ones
        if known is not None and str(net) != known["net"]["from"] and (weights, layer, size) == (None, None, None):
            from neocog.library.embed import embedder_of as again

            return {"embedder": lambda amount: again(known, device, amount=amount, say=say), "model": str(net)}
        if net is None and weights is None and layer is None and size is None and device is None:
            return {}  # indexing takes the library's own, or the default
        say = say or (lambda text: None)
        from neocog.library.embed import Embedder, default_net, embedder_of

        if net is None and weights is None and (own := self.store.model_of(sounds=False)) is not None:
            card = self.store.models()[own]
            if layer is None and size is None:
                return {"embedder": lambda amount: embedder_of(card, device, amount=amount, say=say), "model": own}
            net, weights = card["net"]["from"], card["weights"]["file"]
            sized = card["preprocess"]["size"]
            if own in (net, at_size(net, sized)) or (Path(net) / "net.json").is_file():  # ImageNet weights, or a run
                weights = None
            if size is None and own != model_name(net, weights):
                size = sized
        else:
            net = net if net is not None else default_net(say)
        name = model_name(net, weights)
        name = at_size(name, size) if size is not None else name
        name = at_layer(name, layer) if layer else name

        def make(amount: int) -> Embeds:
            return Embedder(net, weights, device, layer=layer, size=size, amount=amount, say=say)

        return {"embedder": make, "model": name}

    def _indexed(self, report: Report) -> None:
        if report.computed and self.store.load("taught", {}):
            from neocog.library.teaching import tag_again

            tag_again(self.store)

    # --- searching

    def search(
        self,
        query: str | Query = "",
        *,
        like: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        unlike: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        top: int = 20,
        threshold: float | None = None,
        model: str | None = None,
        metric: str = "cosine",
        layer: str = "features",
    ) -> Answer:
        """Return the best hits, with scores and reasons (see `searching.search`); `query.py` has the language.

        While the library is indexed for the first time, the first note says so.
        """
        from neocog.library.searching import search

        asked: dict[str, Any]
        unfinished = self.store.unfinished_note()
        try:
            asked = {"top": top, "threshold": threshold, "model": model, "metric": metric, "layer": layer}
            found = search(self.store, _as_stored(query), like=_several(like), unlike=_several(unlike), **asked)
        except NeocogError as error:
            if unfinished:
                raise type(error)(f"{error}; {unfinished}") from error
            raise
        if isinstance(query, str) and shown(query) != query:
            from neocog.library.query import parse

            found = replace(found, query=parse(query))
        return replace(found, notes=(unfinished, *found.notes)) if unfinished else found

    def describe(self, picture: str | os.PathLike[str], *, top: int = 8, model: str | None = None) -> Description:
        """Say what a picture shows, which pictures of the library resemble it, and what is unusual about it."""
        from neocog.library.describe import describe

        return describe(self.store, os.fspath(picture), top=top, model=model)

    # --- own words

    def teach(self, name: str, examples: Any, negatives: Any = (), **options: Any) -> Taught:
        """Teach a concept from pictures: files, folders, hashes or hits; tags the whole library with it."""
        from neocog.library.teaching import teach

        return teach(self.store, shown(name), _several(examples), _several(negatives), **options)

    def correct(self, name: str, picture: str | os.PathLike[str], right: bool, **options: Any) -> Taught:
        """Say that a picture shows the concept `name`, or does not; it is learned again at once."""
        from neocog.library.teaching import correct

        return correct(self.store, os.fspath(picture), shown(name), right, **options)

    def propose(self, name: str, count: int = 12) -> tuple[Proposal, ...]:
        """Return the pictures whose answer, yes or no, would help most."""
        from neocog.library.teaching import propose

        return propose(self.store, shown(name), count)

    def forget(self, name: str) -> None:
        """Remove a taught concept with its examples, corrections and tags."""
        from neocog.library.teaching import forget

        forget(self.store, shown(name))

    @property
    def taught(self) -> tuple[str, ...]:
        """The concepts that were taught."""
        return tuple(self.store.load("taught", {}))

    def learn_clip(self, named: str | os.PathLike[str], **options: Any) -> Report:
        """Search by sentence with CLIP weights from now on: a folder, a file or a name of the Hugging Face hub.

        Args:
            options: those of `index`, but for the net.
        """
        from neocog.library.clip import learn_clip

        return learn_clip(self, os.fspath(named), **options)

    def learn_sentences(self, **options: Any) -> Learned:
        """Learn to search by sentence from the captions of its pictures; used from then on, if it finds more.

        Args:
            options: `epochs`, `seed`, `progress` and `say` of `learning.learn_sentences`.
        """
        from neocog.library.learning import learn_sentences

        return learn_sentences(self.store, **options)

    def forget_sentences(self) -> bool:
        """Search by the sentence space that comes with neocog again; False if the library has none of its own."""
        from neocog.library.learning import forget_sentences

        return forget_sentences(self.store)

    # --- looking after it

    def folders(self) -> list[IndexedFolder]:
        """Return the folders that were indexed, with how many pictures of each are known, and whether it is there."""
        from neocog.library.folders import folders

        return folders(self.store)

    def forget_folder(self, folder: str | os.PathLike[str]) -> Changed:
        """Remove a folder and its pictures from the library; no file is touched."""
        from neocog.library.folders import forget

        return forget(self.store, folder)

    def move_folder(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> Changed:
        """Record that the folder `old` is now `new`; nothing is computed again."""
        from neocog.library.folders import move

        return move(self.store, old, new)

    def info(self) -> Info:
        """Count what is in it."""
        from neocog.library.upkeep import info

        return info(self.store)

    def verify(self, *, deep: bool = False, fix: bool = False) -> list[Finding]:
        """Check that table, vectors and files agree; empty if all is well."""
        from neocog.library.upkeep import verify

        return verify(self.store, deep=deep, fix=fix)

    def problems(self) -> list[Problem]:
        """Return the files that could not be read, and why."""
        from neocog.library.upkeep import problems

        return problems(self.store)

    def duplicates(self, level: str = "exact", **options: Any) -> list[Group]:
        """Return groups of duplicates ("exact", "near" or "similar"; each has the exact ones), the best first."""
        from neocog.library.copies import duplicates

        return duplicates(self.store, level, **options)

    def export(self, path: str | os.PathLike[str], *, model: str | None = None) -> int:
        """Write the rows to a .parquet or .csv file; returns how many pictures."""
        from neocog.library.upkeep import export

        return export(self.store, path, model=model)


def _as_stored(query: str | Query) -> str | Query:
    """A query with names that are not UTF-8 as the library has them; files to compare with stay as they are."""
    if not isinstance(query, str) or shown(query) == query:
        return query
    from neocog.library.query import Filter, parse
    from neocog.library.rows import encode_path

    parsed, terms = parse(query), []
    term: Any
    for term in parsed.terms:
        labels = isinstance(term, Filter) and term.field in ("label", "tag")
        for name in ("text", "value"):
            if isinstance(text := getattr(term, name, None), str):
                term = replace(term, **{name: shown(text) if labels else encode_path(text)})
        terms.append(term)
    return replace(parsed, terms=tuple(terms))


def _several(given: Any) -> Any:
    """One file, or several, as several."""
    if isinstance(given, str | os.PathLike):
        return (os.fspath(given),)
    if isinstance(given, Iterable):
        return [os.fspath(one) if isinstance(one, os.PathLike) else one for one in given]
    return given
