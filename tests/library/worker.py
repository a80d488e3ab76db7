"""Index a folder in a process of its own, for tests that end it, limit it, or run two at once.

Arguments: library, folder, rows in a commit, seconds to wait for others, bytes that a file may have (0: any; -1: any,
and runs are started as children, one for each line "run" that is read; "wait" waits for it).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

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
    if int(limit) > 0:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    import lancedb  # noqa: F401 (what takes a second happens before the test's clock starts)

    print("go", flush=True)
    return serve(library, folder) if int(limit) < 0 else run(library, folder, float(wait))


def serve(library: str, folder: str) -> int:
    """Forking is safe here, although LanceDB warns about it: nothing runs in this process while it forks."""
    child = 0
    for line in sys.stdin:
        if line == "run\n":
            child = os.fork()
            if child == 0:
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), 1)
                os._exit(run(library, folder, 0))
            print(child, flush=True)
        else:
            os.waitpid(child, 0)
            print("ended", flush=True)
    return 0


def run(library: str, folder: str, wait: float) -> int:
    try:
        store = Store.ensure(library)
        print(indexing.index(store, [folder], Slow(), wait=wait), flush=True)
    except NeocogError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
