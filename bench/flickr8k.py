"""How good the sentence space that comes with neocog is: recall, everyday queries, "nothing found" (Flickr8k dev).

    NEOCOG_DATA=... python bench/flickr8k.py [--pictures FOLDER] [--show FOLDER]

**Recall**: 1,000 photographs, 5,000 sentences, by what the space says: the cosines of its towers and what its words say
by themselves, weighed as `neocog search` does it; beside it the cosines alone. Picture to sentence: the closest of a
picture's five counts; sentence to picture: its own. Also for each half of 500 alone: the first chose the epoch and the
calibration, the second nothing.

**Everyday queries**: those of flickr8k_queries.tsv and of flickr8k_queries_2.tsv, each as `neocog search` finds them
among all 1,000 written out as files, with everything that speaks there, and judged by captions (the rules are in those
files). A query is answered if 5 of the first 10 pictures are relevant, or all that exist. Captions leave out much that
is on a photograph, so a picture that no caption vouches for may still be right; `--show` writes the first ten as
contact sheets, to look.

**Nothing found**: the share of queries for what no photograph shows for which nothing is found, and of the everyday
ones for which something is.

Writes bench/results/flickr8k.json. `--pictures`: where the photographs are written and indexed, to be used again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from neocog import Library
from neocog.data import open_source
from neocog.data.source import Source
from neocog.fit.device import hardware
from neocog.library.view import view_of
from neocog.tasks.match_captions import SIDES
from neocog.tasks.ranking import figures_of, ranks
from neocog.text import space as room
from neocog.text.space import FILES, Space

HERE, HOME = Path(__file__).parent, Path(room.__file__).parent
TOP, ENOUGH = 10, 5
QUERIES = ("flickr8k_queries.tsv", "flickr8k_queries_2.tsv")
WORDS = {  # what stands for them in the rules
    "<person>": "m[ae]n|wom[ae]n|boys?|girls?|persons?|people|child|children|kids?|guys?|lad(y|ies)|adults?|toddlers?|"
    "bab(y|ies)|someone|players?|riders?|crowd|couple|surfers?|swimmers?|owner|group|family|hand|male|female",
    "<child>": "child|children|kids?|boys?|girls?|toddlers?|bab(y|ies)|infants?",
    "<girl>": "girls?|child|children|toddlers?|bab(y|ies)|wom[ae]n|lady|kids?",
}
PUBLISHED = [  # on the 1,000 photographs of test, not of dev: recall@1/5/10 of a picture's sentence, of a sentence's
    {"by": "UVSE, LSTM, OxfordNet (Kiros et al. 2014)", SIDES[0]: [18.0, 40.9, 55.0], SIDES[1]: [12.5, 37.0, 51.5]},
    {"by": "Fisher vectors, VGG (Klein et al. 2015)", SIDES[0]: [31.0, 59.3, 73.7], SIDES[1]: [21.3, 50.0, 64.8]},
]


def library_of(source: Source, folder: Path) -> Library:
    """The photographs as files NNNN.jpg, without captions, and their library."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(len(source)):
        if not (folder / f"{i:04}.jpg").exists():
            (folder / f"{i:04}.jpg").write_bytes(source.read(i))  # type: ignore[arg-type]
    library = Library.beside(folder)
    library.index(folder, net="efficientnet_lite0")
    return library


def features_of(library: Library) -> np.ndarray:
    """What the library keeps of all photographs, float32 (N, F), in their order."""
    view = view_of(library.store)
    rows, values = view.vectors("efficientnet_lite0")
    return values[np.argsort([view.paths(int(row))[0] for row in rows])].astype(np.float32)


def queries(file: str) -> list[tuple[str, str, str]]:
    """Kind, query and rule of each."""
    lines = (HERE / file).read_text("utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


def relevant(rule: str, captions: list[list[str]]) -> np.ndarray:
    """bool (N,): which pictures a rule's words vouch for."""
    for name, words in WORDS.items():
        rule = rule.replace(name, words)
    parts = rule.split(" & ")
    wanted = [re.compile(rf"\b(?:{part})\b") for part in parts if not part.startswith("!")]
    barred = [re.compile(rf"\b(?:{part[1:]})\b") for part in parts if part.startswith("!")]
    return np.array(
        [
            any(all(one.search(text) for one in wanted) for text in of)
            and not any(one.search(text) for one in barred for text in of)
            for of in captions
        ]
    )


def weighed(space: Space, pictures: np.ndarray, sentences: np.ndarray, texts: list[str]) -> np.ndarray:
    """How well each picture fits each text, (pictures, texts)."""
    products = pictures @ sentences.T
    for k, text in enumerate(texts):
        heads, added = space.heads(text)
        heard = space.heard(pictures @ heads.T, added) if len(added) else None
        products[:, k] = space.weighed(products[:, k], text, heard=heard)
    return products


def recall(fits: np.ndarray, owner: np.ndarray) -> dict[str, Any]:
    """Recall@1/5/10 in percent and median rank, in both directions, by how well (pictures, texts) fit."""
    made: dict[str, Any] = {"pictures": len(fits), "sentences": len(owner)}
    for side, found in zip(SIDES, ranks(fits, np.eye(len(owner), dtype=np.float32), owner), strict=True):
        figures = figures_of(found, side)
        made[side] = [round(100 * figures[f"{side}_recall_at_{k}"], 1) for k in (1, 5, 10)]
        made[f"{side}_median_rank"] = figures[f"{side}_median_rank"]
    return made


def asked(library: Library, file: str, captions: list[list[str]]) -> list[dict[str, Any]]:
    """What `neocog search` finds for each query of a file."""
    found = []
    for kind, query, rule in queries(file):
        first = [int(Path(hit.path).stem) for hit in library.search(query, top=len(captions)).hits]
        right = relevant(rule, captions)
        hits = int(right[first[:TOP]].sum())
        found.append(
            {
                "kind": kind, "query": query, "exist": int(right.sum()), "relevant": hits,
                "answered": bool(right.any() and hits >= min(ENOUGH, right.sum())),
                "shown": len(first), "first": first[:TOP],
            }
        )  # fmt: skip
    return found


def by_kind(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures for each kind, then for all everyday queries, then for the absent ones."""
    table, everyday = [], [row for row in rows if row["kind"] != "absent"]
    for kind in [*dict.fromkeys(row["kind"] for row in everyday), "all"]:
        some = [row for row in everyday if kind in ("all", row["kind"])]
        table.append(
            {
                "kind": kind, "queries": len(some), "answered": sum(row["answered"] for row in some),
                "relevant_of_ten": round(float(np.mean([row["relevant"] for row in some])), 2),
                "some_shown": sum(row["shown"] > 0 for row in some),
            }
        )  # fmt: skip
    absent = [row for row in rows if row["kind"] == "absent" and not row["exist"]]
    table.append({"kind": "absent", "queries": len(absent), "nothing_found": sum(row["shown"] == 0 for row in absent)})
    return table


def contact_sheets(rows: list[dict[str, Any]], source: Source, folder: Path) -> None:
    """Write the first ten pictures of each query, six queries a sheet."""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True, exist_ok=True)
    side = 128
    for start in range(0, len(rows), 6):
        sheet = Image.new("RGB", (TOP * side, 6 * (side + 16)), "white")
        for line, row in enumerate(rows[start : start + 6]):
            top = line * (side + 16)
            said = f"{row['query']}: {row['relevant']} of {TOP} by captions, {row['exist']} exist"
            ImageDraw.Draw(sheet).text((4, top + 2), said, "black")
            for place, i in enumerate(row["first"]):
                picture = Image.open(io.BytesIO(source.read(i))).convert("RGB")  # type: ignore[arg-type]
                picture.thumbnail((side, side))
                sheet.paste(picture, (place * side, top + 16))
        sheet.save(folder / f"{start // 6:02d}.png")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder; default: a temporary one")
    parser.add_argument("--show", type=Path, help="a folder for contact sheets")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "flickr8k.json")
    given = parser.parse_args()
    source = open_source(Path(os.environ["NEOCOG_DATA"]) / "flickr8k" / "dev.parquet")
    captions = [[text.lower() for text in source.sample(i).captions] for i in range(len(source))]
    with tempfile.TemporaryDirectory() as name:
        library = library_of(source, given.pictures or Path(name))
        begin = time.perf_counter()
        space = Space.load()
        load = time.perf_counter() - begin
        features = features_of(library)
        begin = time.perf_counter()
        pictures = space.pictures(features)
        sentences = space.sentences(texts := [text for of in captions for text in of])
        spent = time.perf_counter() - begin
        sets = {file: asked(library, file, captions) for file in QUERIES}
    both = weighed(space, pictures, sentences, texts)
    owner = np.repeat(np.arange(len(source)), [len(of) for of in captions])
    half = len(source) // 2
    parts = {"all of dev": slice(0, len(source)), "first half": slice(0, half), "second half": slice(half, len(source))}
    table = []
    for on, part in parts.items():
        of = (owner >= part.start) & (owner < part.stop)
        for by, fits in (("cosines and words", both), ("cosines", pictures @ sentences.T)):
            table.append({"on": on, "by": by, **recall(fits[part][:, of], owner[of] - part.start)})
    result = {
        "space": {
            "trunk": space.trunk, "dimensions": space.dimensions, "fingerprint": space.fingerprint,
            "bytes": sum((HOME / name).stat().st_size for name in FILES),
        },
        "recall": table, "published": PUBLISHED, "kinds": {file: by_kind(rows) for file, rows in sets.items()},
        "queries": sets, "seconds": {"load": load, "1,000 pictures and 5,000 sentences, without the trunk": spent},
        "hardware": hardware(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    for line in table:
        print(line)
    for file, rows in sets.items():
        print(file, *by_kind(rows), sep="\n")
        print("found, though absent:", [row["query"] for row in rows if row["kind"] == "absent" and row["shown"]])
        if given.show:
            contact_sheets(rows, source, given.show / Path(file).stem)
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
