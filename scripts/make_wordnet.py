"""Make src/neocog/library/wordnet.json: names and broader terms of the 1,000 ImageNet classes, in compact form.

    python scripts/make_wordnet.py FACTS/imagenet_wordnet.json

The input lists for each class its names and *all* its broader terms, and for each broader term its names and its
direct parents. The output keeps direct parents only (everything else follows), as positions in one list, and the
notice that WordNet's licence asks to keep with every copy. That nothing is lost is checked before it is written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "src" / "neocog" / "library" / "wordnet.json"

NOTICE = """WordNet Release 3.0

This software and database is being provided to you, the LICENSEE, by Princeton University under the following \
license. By obtaining, using and/or copying this software and database, you agree that you have read, understood, \
and will comply with these terms and conditions.:

Permission to use, copy, modify and distribute this software and database and its documentation for any purpose and \
without fee or royalty is hereby granted, provided that you agree to comply with the following copyright notice and \
statements, including the disclaimer, and that the same appear on ALL copies of the software, database and \
documentation, including modifications that you make for internal use or for distribution.

WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.

THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, \
EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR \
WARRANTIES OF MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE, \
DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS.

The name of Princeton University or Princeton may not be used in advertising or publicity pertaining to distribution \
of the software and/or database. Title to copyright in this software, database and any associated documentation \
shall at all times remain with Princeton University and LICENSEE agrees to preserve same."""


def compact(facts: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"notice", "terms": [[names, parents]], "classes": [[wnid, names, parents]]}``.

    `terms` are the broader terms, most general first, and `parents` are positions in that list.
    """
    direct = {wnid: tuple(term["direct"]) for wnid, term in facts["broader"].items()}
    above: dict[str, frozenset[str]] = {}

    def ancestors(wnid: str) -> frozenset[str]:
        if wnid not in above:
            above[wnid] = frozenset(direct[wnid]).union(*(ancestors(p) for p in direct[wnid]))
        return above[wnid]

    order = sorted(direct, key=lambda wnid: (len(ancestors(wnid)), wnid))  # a parent comes before its children
    place = {wnid: i for i, wnid in enumerate(order)}
    classes = []
    for one in sorted(facts["classes"], key=lambda c: c["index"]):
        broader = set(one["broader"])
        implied = frozenset().union(*(ancestors(b) for b in broader))
        parents = broader - implied  # what no other broader term implies
        assert parents.union(*(ancestors(p) for p in parents)) == broader, one["wnid"]
        classes.append([one["wnid"], one["names"], sorted(place[p] for p in parents)])
    terms = [[facts["broader"][wnid]["names"], sorted(place[p] for p in direct[wnid])] for wnid in order]
    return {"notice": NOTICE, "terms": terms, "classes": classes}


def main() -> None:
    """Write wordnet.json and, beside it, the notice as text."""
    made = compact(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    TARGET.write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")
    TARGET.with_name("wordnet.LICENSE.txt").write_text(NOTICE + "\n", "utf-8")
    print(f"{TARGET}: {len(made['classes'])} classes, {len(made['terms'])} broader terms")


if __name__ == "__main__":
    main()
