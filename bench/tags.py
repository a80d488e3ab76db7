"""What it costs to learn tags from one caption of each photograph instead of five (Flickr8k).

    NEOCOG_DATA=... python bench/tags.py CACHE [OUT]    # CACHE: features, as bench/captions.py keeps them

Tags are the words that `neocog train --task tags --from-text` takes from captions: those of at least 1 % of the 6,000
photographs of train, by all five captions. A last layer is fitted on features of the default trunk (least squares,
`--task-option loss=squared`, which takes seconds), with the strength that is best for every tenth of these photographs,
by labels of the same kind. What is learned:

- one: the tags of the first caption; what it does not mention counts as absent.
- any: those of any of the five. two, most: those that at least two, or at least three, of the five have.
- any of a fifth: those of any of the five, of 1,200 photographs: as many sentences as "one" has.

Judged on the 1,000 photographs of dev, mean average precision over tags: against what any of five captions says, and
against what most of them say.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from captions import features, open_split

from neocog.data.from_texts import with_tags
from neocog.data.kinds import TextLists
from neocog.data.source import Source
from neocog.fit import heads
from neocog.fit.device import hardware
from neocog.tasks.tag_measures import per_tag_ap
from neocog.tasks.tags import Tags

CAPTIONS = 5


def said(source: Source, names: tuple[str, ...]) -> np.ndarray:
    """How many of its captions have each tag, int (N, K); the first caption alone: bool (N, K)."""
    found = []
    for k in range(CAPTIONS):
        view = source.select(np.arange(len(source)))
        view.columns = {"captions": TextLists(source.captions[i][k : k + 1] for i in range(len(source)))}  # type: ignore[index]
        column = with_tags(view, names=names).columns["tags"]
        found.append(
            np.stack([np.zeros(len(names)) if (row := column[i]) is None else row for i in range(len(source))])
        )
    return np.stack(found)  # (5, N, K)


def main() -> None:
    """Fit, judge, print and write."""
    cache = Path(sys.argv[1])
    train, dev = open_split("train"), open_split("dev")
    x, dev_x = features(cache, "train", train)[0], features(cache, "dev", dev)[0]
    names = with_tags(train, str(round(0.01 * len(train)))).columns["tags"].names
    told, truth = said(train, names), said(dev, names).sum(0)
    times, held = told.sum(0), np.arange(len(train)) % 10 == 0
    few = np.arange(len(train)) % 5 == 1  # none of them held out; a few more are, for the strength
    ways = {
        "one": (told[0] > 0, ~held), "any": (times > 0, ~held), "two": (times > 1, ~held), "most": (times > 2, ~held),
        "any of a fifth": (times > 0, few),
    }  # fmt: skip
    rows = []
    for way, (y, some) in ways.items():
        begin = time.process_time()
        task, y = Tags(names, loss="squared"), y.astype(np.float32)
        head = heads.choose(x[some], {"tags": y[some]}, task, held_out=(x[held], {"tags": y[held]}))
        scores = head.logits(dev_x)
        rows.append(
            {
                "learned": way, "pictures": int(some.sum()), "tags_a_picture": round(float(y.sum(1).mean()), 2),
                "strength": head.strength,
                "map_any": round(float(np.nanmean(per_tag_ap(scores, (truth > 0).astype(float)))), 4),
                "map_most": round(float(np.nanmean(per_tag_ap(scores, (truth > 2).astype(float)))), 4),
                "cpu_seconds": round(time.process_time() - begin, 1),
            }
        )  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    chance = {
        f"map_{k}": round(float((truth > n).mean(0)[(truth > n).any(0)].mean()), 4)
        for k, n in (("any", 0), ("most", 2))
    }
    result = {
        "tags": len(names), "rows": rows, "chance": chance, "dev": len(dev),
        "share_of_tags_that_one_caption_has": round(float(told[0].sum() / (times > 0).sum()), 3),
        "hardware": hardware(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(json.dumps(result))
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
