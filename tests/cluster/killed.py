"""Index a folder on a cluster of its own, and die by SIGKILL after the first commit. Arguments: library, sources."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster.nets import tiny
from library.tiny import Tiny

from neocog.cluster import Cluster
from neocog.library.indexing import index
from neocog.library.store import Store


def main() -> None:
    store = Store.ensure(sys.argv[1])

    def progress(done: int, total: int) -> None:
        if len(store):
            os.kill(os.getpid(), signal.SIGKILL)

    Cluster.commit_rows = 64
    with Cluster("local", workers=2, make=tiny) as cluster:
        index(store, sys.argv[2:], Tiny(), elsewhere=cluster, progress=progress)


if __name__ == "__main__":
    main()
