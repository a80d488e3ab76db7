"""Tables of pairs of texts: queries and titles, questions and answers, paraphrases with 1 and 0, translations."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.columns import declared, split_code, split_code_in
from neocog.data.guess import bare
from neocog.data.kinds import Category, Column, TextLists
from neocog.data.source import Source
from neocog.data.text import table_rows
from neocog.errors import UsageError, closest
from neocog.records import Problem, counted

# names of the two columns, without marks and in lower case; numbered ones are tried beside them
_NAMES = (
    ("query", "title"), ("query", "document"), ("query", "doc"), ("query", "passage"), ("query", "text"),
    ("question", "answer"), ("question1", "question2"), ("sentence1", "sentence2"), ("text1", "text2"),
    ("texta", "textb"), ("sentencea", "sentenceb"), ("premise", "hypothesis"), ("mention", "entity"),
    ("source", "target"), ("src", "tgt"), ("first", "second"), ("s1", "s2"),
    ("ad", "page"), ("anchor", "positive"),
)  # fmt: skip
_LABELS = ("label", "same", "isduplicate", "duplicate", "quality", "paraphrase", "relevance", "relevant", "match", "y")
_SPLITS = ("split", "set", "subset", "partition")
ROLES = ("first", "second", "label", "split")
_YES = {"1": 1, "1.0": 1, "true": 1, "yes": 1, "same": 1, "0": 0, "0.0": 0, "false": 0, "no": 0, "different": 0}
SAME = ("different", "same")


class Pairs(Source):
    """Pairs of texts: columns "first" (what is read) and "second", and "same" where the table says 0 or 1."""

    kind = "text"

    def read(self, i: int) -> tuple[str, ...]:
        return self.columns["first"][i]  # type: ignore[no-any-return]


def pair_columns(names: Sequence[str], given: Mapping[str, str] | None = None) -> dict[str, str] | None:
    """Role -> column of a table of pairs: first, second, label, split; None if it is none.

    Raises: UsageError: a declared column does not exist.
    """
    given = dict(given or {})
    if given and not {"first", "second"} & given.keys():
        return None
    for role, name in given.items():
        if role not in ROLES:
            raise UsageError(f"unknown role {role!r}{closest(role, ROLES)}; of pairs they are {', '.join(ROLES)}")
        if name not in names:
            raise UsageError(f"the table has no column {name!r}{closest(name, names)}; it has {', '.join(names)}")
    short = {bare(name): name for name in reversed(names)}
    found = next(((short[a], short[b]) for a, b in _NAMES if a in short and b in short), None)
    if found is None and not {"first", "second"} <= given.keys():
        return None
    made = dict(zip(("first", "second"), found or ("", ""), strict=True)) | given
    for role, usual in (("label", _LABELS), ("split", _SPLITS)):
        if role not in made and (column := next((short[one] for one in usual if one in short), None)):
            made[role] = column
    return made


def open_pairs(
    files: Sequence[Path], *, name: str, columns: Mapping[str, str] | None = None, root: Path | None = None
) -> Pairs | None:
    """The pairs of some tables; None if they hold none. Raises: DataError, UsageError: see `pair_columns`."""
    notes: list[str] = []
    problems: list[Problem] = []
    first, second, said, splits = TextLists(), TextLists(), list[int](), list[int]()
    roles: dict[str, str] | None = None
    odd: Counter[str] = Counter()
    for path in (Path(os.path.abspath(one)) for one in files):
        for line, row in enumerate(table_rows(path, problems, notes), 1):
            if roles is None:
                roles = pair_columns(list(row), columns)
                if roles is None:
                    return None
            texts = [_texts(row.get(roles[side])) for side in ("first", "second")]
            if not all(texts):
                problems.append(Problem(f"{path.name}, row {line}", "a text is empty"))
                continue
            first.append(texts[0])
            second.append(texts[1])
            label = str(row.get(roles.get("label", ""), "")).strip().lower()
            if label and label not in _YES:
                odd[label] += 1
            said.append(_YES.get(label, -1))
            split = split_code(row.get(roles["split"])) if "split" in roles else split_code_in(path.stem)
            splits.append(split)
    if roles is None or not said:
        return None
    codes = np.array(said, np.int32)
    more: dict[str, Column] = {"first": first, "second": second}
    used = dict(roles)
    if odd:
        shown = ", ".join(repr(one) for one, _ in odd.most_common(3))
        notes.append(f"column {used.pop('label')!r} is not used: it holds {shown}, not 0 and 1")
    elif (codes >= 0).any():
        more["same"] = Category(codes, SAME)
    notes.insert(0, "columns guessed: " + ", ".join(f"{column!r} as {role}" for role, column in used.items()))
    if problems:
        notes.append(
            f"{counted(len(problems), 'row', 'was')} skipped, the first is {problems[0].key}: {problems[0].reason}"
        )
    coded = declared(splits, notes)
    return Pairs(name, (), np.full(len(said), -1), coded, notes=notes, problems=problems, columns=more)


def _texts(cell: Any) -> list[str]:
    cells = cell if isinstance(cell, (list, tuple)) else [cell]
    return [text for one in cells if one is not None and (text := str(one).strip())]
