"""Make src/neocog/library/english.json: common English words, which a search does not take for mistyped ones.

    python scripts/make_english.py COPYRIGHT LIST...

The lists are those of SCOWL, one word a line, as Debian's packages wamerican-small and wbritish-small have them
(/usr/share/dict/american-english-small, british-english-small), and COPYRIGHT is the notice that comes with them
(/usr/share/doc/wamerican-small/copyright) and has to go with every copy. Possessives, words with accents and words of
fewer than three letters are left out; so are plurals whose singular is there, since a search tries that too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from neocog.library.concepts import singulars

TARGET = Path(__file__).parents[1] / "src" / "neocog" / "library" / "english.json"


def main() -> None:
    """Write english.json and, beside it, the notice as text."""
    notice = Path(sys.argv[1]).read_text("utf-8")
    words = {line for name in sys.argv[2:] for line in Path(name).read_text("utf-8").split("\n")}
    words = {w.lower() for w in words if len(w) > 2 and w.isascii() and w.isalpha()}
    kept = sorted(w for w in words if not any(one in words for one in singulars(w)))
    made = {"notice": notice, "words": " ".join(kept)}
    TARGET.write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")
    TARGET.with_name("english.LICENSE.txt").write_text(notice, "utf-8")
    print(f"{TARGET}: {len(kept):,} words, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
