"""A library on disk: rows of pictures, their vectors, and the nearest of them.

    library.json         format, identity, indexed folders, models; written atomically (card.py)
    pictures.lance       one row for each distinct content (rows.SCHEMA)
    vectors_NAME.lance   what the model NAME makes of them: v_NAME half-precision vector of length 1, n_NAME the length
                         that it had, p_NAME probabilities
    problems.lance       one row for each file that cannot be read
    versions.json        which versions of these tables are read; written whole after each change (card.py)
    cache/               copies that searching maps into memory (mirror.py); may be deleted at any time
    *.lock               who writes at the moment (lock.py)

tables.py keeps the tables, with LanceDB; vectors.py knows what models make of the pictures. Outside
of these files pictures and vectors are one table, with one column of vectors for each model. They lie apart
because LanceDB rewrites whole rows: tagging 100,000 pictures would rewrite 350 MB of vectors and take every row out
of the index, and so would a second model. A vector is written before the row that counts on it, and depends on nothing
but content and model, so a kill between the two leaves a vector in waiting and nothing wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neocog.data.stores import holding, is_sound, is_url
from neocog.errors import LibraryError, UsageError, closest
from neocog.files import misfit
from neocog.library.card import FORMS, NAME, new_card, write_json
from neocog.library.lock import Lock, holder
from neocog.library.rows import (
    PROBLEMS,
    SCHEMA,
    checked_hashes,
    decode_path,
    encode_path,
    incoming,
    is_ok,
    whole_rows,
)
from neocog.library.tables import told
from neocog.library.vectors import Vectors


class Store(Vectors):
    """One library. Several threads may read; changes are made one after the other, by whichever process."""

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    @staticmethod
    def create(folder: str | os.PathLike[str]) -> Store:
        """Make an empty library in a folder that is new or holds no library.

        Raises: LibraryError: there is a library already, or the folder cannot be written.
        """
        folder = Path(os.path.abspath(folder))
        if (folder / "library.json").exists():
            raise LibraryError(f"{folder} is a library already; open it with Store.open")
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "pictures.lance").exists() and any(
                not entry.name.startswith(".") and not entry.name.endswith((".lance", ".lock", "cache"))
                for entry in folder.iterdir()
            ):
                raise LibraryError(f"{folder} holds other files; choose a folder that is new or empty for the library")
            store = Store(folder, new_card(folder))
            with store._writing():
                if not (folder / "library.json").exists():
                    for name, schema in (("pictures", SCHEMA), ("problems", PROBLEMS)):
                        store._tables[name] = store._connect().create_table(name, schema=schema, exist_ok=True)
                    store._card.write()  # last: it makes the folder a library
        return Store.open(folder)

    @staticmethod
    def open(folder: str | os.PathLike[str]) -> Store:
        """Open a library for reading and writing; nothing is written before something changes.

        Raises: LibraryError: there is none, it is damaged, or a newer version of neocog made it.
        """
        folder = Path(os.path.abspath(folder))
        if not (folder / "library.json").exists() and (folder / ".neocog" / "library.json").exists():
            folder = folder / ".neocog"
        return Store(folder)

    @staticmethod
    def ensure(folder: str | os.PathLike[str]) -> Store:
        """Open the library of a folder, or make one if there is none; several processes may do so at once.

        Raises: as `open` and `create`.
        """
        try:
            return Store.create(folder)
        except LibraryError:
            if not (Path(folder) / "library.json").exists():
                raise
            return Store.open(folder)

    @property
    def read_only(self) -> bool:
        """Whether this user may not change the library."""
        return not os.access(self.folder, os.W_OK) or not os.access(self.folder / "library.json", os.W_OK)

    @property
    def created(self) -> str:
        """When the library was made, local time."""
        return str(self._card.read().get("created", ""))

    # paths

    def text_of(self, path: str | os.PathLike[str]) -> str:
        """Return an absolute path as it is stored."""
        full = os.fspath(path)
        if self._card.read()["inside"]:
            parent = os.path.join(os.fspath(self.folder.parent), "")
            if full.startswith(parent):
                return encode_path(full[len(parent) :])
            if full == parent.rstrip(os.sep):
                return "."
        return encode_path(full)

    def path_of(self, text: str) -> Path:
        """Return the absolute path of a stored one."""
        return Path(os.path.join(self.folder.parent, decode_path(text)))

    def name_of(self, text: str) -> str:
        """Return a stored path as users see it: absolute, or a URL."""
        path = decode_path(text)
        return path if is_url(path) else str(self.path_of(text))

    @property
    def folders(self) -> list[str]:
        """The folders that were indexed, as stored texts."""
        return list(self._card.read()["folders"])

    @property
    def unfinished(self) -> list[str]:
        """The folders, as stored texts, that are indexed for the first time, or were when that was interrupted."""
        return list(self._card.read().get("unfinished", ()))

    @property
    def exclude(self) -> list[str]:
        """What is passed over in its folders: lines as in ``.gitignore``."""
        return list(self._card.read().get("exclude", ()))

    def note(self, **lists: list[str]) -> None:
        """Remember `folders`, `unfinished` or `exclude`; writes only what is different."""
        card = self._card.read()
        if any(card.get(name, []) != value for name, value in lists.items()):
            with self._writing(), told(self.folder):
                self._card.write(**lists)

    # reading

    def __len__(self) -> int:
        """Pictures that are there; those that are gone do not count."""
        return int(self._present().sum())

    def holds(self, model: str | None = None) -> str:
        """How much is there, of all kinds, in words; of a model, how much of the kind that it reads."""
        paths = pc.list_element(self._mirror("pictures").column("paths").filter(pa.array(self._present())), 0)
        times = paths.filter(pc.match_substring_regex(paths, r"/\d+\.\d{3}$"))  # few, in most libraries
        hears = model is not None and self.card_of(model).get("kind") == "sound"
        some = [one for one in times.to_pylist() if model is None or is_sound(one) == hears]
        return holding(some, 0 if hears else len(paths) - len(times))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, with those of the models."""
        made = [
            f"{k}_{name}" for name, card in self.models().items() for k in ("vnp" if card.get("classes", 1) else "vn")
        ]
        return (*SCHEMA.names, *made)

    def rows(self, columns: Sequence[str], *, gone: bool = False) -> pa.Table:
        """Return columns of the pictures, in the order of their hashes.

        With ``gone=True`` also those of which no file is left.

        Raises: UsageError: no such column.
        """
        for name in columns:
            if name not in self.columns:
                raise UsageError(
                    f"no column {name!r}{closest(name, self.columns)}; expected one of {', '.join(self.columns)}"
                )
        table = self._mirror("pictures")
        keep = np.ones(len(table), bool) if gone else is_ok(table)
        found = pa.table(
            [
                table.column(name) if name in table.column_names else self._heavy(name, table.column("hash"))
                for name in columns
            ],
            names=list(columns),
        )
        return found if keep.all() else found.filter(pa.array(keep))

    def problems(self) -> pa.Table:
        """Files that could not be read: path, reason, mtime_ns, size."""
        return self._mirror("problems")

    # changing

    def add(self, rows: pa.Table) -> int:
        """Add pictures; a hash that is there already is left as it is. Returns how many were new.

        Columns that are not given are empty. Vectors are brought to length 1, and what they had goes to nNAME.

        Raises: LibraryError: a vector of the wrong dimension, or the library cannot be written (a full disk).
        """
        rows, vectors = incoming(rows, self.models())
        given = {name: rows.column(name) for name in rows.column_names}
        rows = whole_rows({"state": ["ok"] * len(rows), **given}, len(rows))
        with self._writing(), told(self.folder):
            self._grow()
            self._put_vectors(vectors)
            done = self._table("pictures").merge_insert("hash").when_not_matched_insert_all().execute(rows)
        return int(done.num_inserted_rows)

    def merge(self, rows: pa.Table) -> int:
        """Change the given columns of pictures that are there, by hash. Returns how many were changed.

        Raises: like `add`.
        """
        rows, vectors = incoming(rows, self.models())
        with self._writing(), told(self.folder):
            self._put_vectors(vectors)
            if rows.column_names == ["hash"]:
                return len(rows)
            self._grow()
            done = self._table("pictures").merge_insert("hash").when_matched_update_all().execute(rows)
        return int(done.num_updated_rows)

    def _grow(self) -> None:
        """Give the table of an older neocog the columns that it lacks."""
        table = self._table("pictures")
        there = set(table.schema.names)
        if missing := [field for field in SCHEMA if field.name not in there]:
            table.add_columns(pa.schema(missing))

    def delete(self, hashes: Sequence[str]) -> None:
        """Remove rows for good, with their vectors and tags; the files are not touched."""
        checked_hashes(list(hashes))
        with self._writing(), told(self.folder):
            for start in range(0, len(hashes), 1000):
                listed = ", ".join(f"'{one}'" for one in hashes[start : start + 1000])
                for table in ("pictures", *(f"vectors_{model}" for model in self.models())):
                    self._table(table).delete(f"hash IN ({listed})")

    def set_problems(self, found: Sequence[dict[str, Any]], solved: Sequence[str] = ()) -> None:
        """Add or replace problems (path, reason, mtime_ns, size) and remove those of the paths `solved`."""
        old = {row["path"]: row for row in self.problems().to_pylist()}
        new = {path: row for path, row in old.items() if path not in set(solved)}
        new |= {row["path"]: row for row in found}
        if new != old:
            with self._writing(), told(self.folder):
                self._table("problems").add(pa.Table.from_pylist(list(new.values()), PROBLEMS), mode="overwrite")

    def save(self, name: str, value: Any) -> None:
        """Keep a JSON-able value under a name in the library, atomically (what was taught, how scores calibrate)."""
        if not NAME.fullmatch(name) or name == "library":
            raise UsageError(f"a name is made of a-z, 0-9 and _, got {name!r}")
        with self._writing(), told(self.folder):
            write_json(self.folder / f"{name}.json", value)

    def load(self, name: str, default: Any = None) -> Any:
        """Return what `save` kept under a name. Raises: LibraryError: it is damaged, or not as in card.FORMS."""
        try:
            found = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
            if wrong := misfit(found, FORMS.get(name, Any)):
                raise ValueError(wrong)
            return found
        except FileNotFoundError:
            return default
        except (OSError, ValueError, RecursionError) as error:
            raise LibraryError(
                f"{self.folder / name}.json cannot be read ({error}); delete it to start again"
            ) from None

    def indexing(self, wait: float = 0.0, waiting: Callable[[str], object] | None = None) -> Lock:
        """The lock of a process that indexes: one at a time for each library."""
        with self._writing():  # and what a killed process saved last counts
            pass
        return Lock(self.folder / "index.lock", "indexing it", wait=wait, waiting=waiting)

    def refresh(self) -> None:
        """Bring the copies that searching reads up to date, so that the next search starts at once."""
        self._mirror("problems")
        for model, card in self.models().items():
            self.vectors(model)
            if card["classes"]:
                self.probabilities(model)

    def unfinished_note(self) -> str:
        """What there is to say of folders that are indexed for the first time, or were when that was interrupted."""
        if not self.unfinished:
            return ""
        names = ", ".join(map(self.name_of, self.unfinished))
        owner, so_far = holder(self.folder / "index.lock"), f"{self.holds()} are in the library so far"
        if owner:
            return f"{names}: {owner} is indexing this for the first time; {so_far}"
        return f"{names}: indexing this for the first time was interrupted; {so_far}. To continue: neocog index"
