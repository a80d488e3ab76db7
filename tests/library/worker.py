"""Index a folder in a process of its own, for tests that end it, limit it, or run two at once.

Arguments: library, folder, rows in a commit, seconds to wait for others, bytes that a file may have (0: any).
"""

from __future__ import annotations

import sys
import time

from library.tiny import Tiny

from neocog.errors import NeocogError
from neocog.library import index_run, indexing
from neocog.library.store import Store


class Slow(Tiny):
    """Takes its time, so that a kill hits it everywhere."""

    def embed(self, pictures):
        time.sleep(0.01)
        return super().embed(pictures)


def main() -> int:
    library, folder, rows, wait, limit = sys.argv[1:]
    index_run.COMMIT_ROWS = int(rows)
    index_run._BATCH = 8
    if int(limit):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        store = Store.ensure(library)
        print(indexing.index(store, [folder], Slow(), wait=float(wait)), flush=True)
    except NeocogError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
