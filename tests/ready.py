"""Processes that begin with PyTorch imported: children of one that imports it once, in place of 3 s each.

For scripts whose import is not the point. A child is a process of its own, with its folder, environment and end, and
can be killed.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

# Nothing that starts a thread while it is imported: a process with threads should not fork. pyarrow's allocator has one
# and knows how to fork; LanceDB's waits for work, of which there is none before the children have some.
ROOT = Path(__file__).parents[1]
_ZOO = [file for room in ("nets", "tasks") for file in sorted((ROOT / "src" / "neocog" / room).glob("[a-z]*.py"))]
IMPORTED = (
    "torch._dynamo", "sklearn.datasets", "sklearn.linear_model", "scipy.io", "scipy.stats", "pyarrow.parquet",
    "neocog.fit.training", *(f"neocog.{file.parent.name}.{file.stem}" for file in _ZOO),
)  # fmt: skip


class Child:
    """A script that runs."""

    def __init__(self, server: Ready, pid: int, said: Path) -> None:
        self.server, self.pid, self.said = server, pid, said
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, as of ``subprocess.Popen``; None while it runs."""
        return self._ask("poll")

    def wait(self) -> int:
        """Wait for the end, and return the exit status."""
        found = self._ask("wait")
        assert found is not None
        return found

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        os.kill(self.pid, signal.SIGKILL)

    @property
    def stdout(self) -> str:
        """What it wrote to standard output so far."""
        return self.said.read_text("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """What it wrote to standard error so far."""
        return self.said.with_suffix(".err").read_text("utf-8", "replace")

    def _ask(self, what: str) -> int | None:
        if self.returncode is None:
            self.returncode = self.server.ask(what, self.pid)
        return self.returncode


class Ready:
    """The process that imports; ended with `close`."""

    def __init__(self, imported: tuple[str, ...] = IMPORTED, warnings: str = "error") -> None:
        """`imported`: modules; `warnings`: what becomes of them, as of ``python -W``."""
        pipe = subprocess.PIPE
        env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", warnings, __file__, *imported]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)
        self.started = 0

    def start(self, script: Path, folder: Path, *arguments: object) -> Child:
        """Run a script in a folder, where it leaves what it writes, too: NUMBER.out and NUMBER.err."""
        self.started += 1
        said = folder / f"{self.started}.out"
        return Child(self, self.ask("start", str(said), str(script), *map(str, arguments)), said)

    def ask(self, *words: str | int) -> int:
        """Ask the process, and return what it says."""
        ask, answer = self.process.stdin, self.process.stdout
        assert ask is not None and answer is not None
        ask.write(json.dumps(words) + "\n")
        ask.flush()
        return json.loads(answer.readline())

    def close(self) -> None:
        """End the process."""
        self.process.communicate("")


def serve() -> tuple[str, ...] | None:
    """Do what is asked until nobody asks; in a child return at once, with what is to run."""
    gc.disable()
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # no child looks for cycles among what is imported
    gc.enable()
    os.fsync = lambda fd: None  # as for tests in the process of pytest
    for line in sys.stdin:
        what, *words = json.loads(line)
        if what == "start":
            pid = os.fork()
            if pid == 0:
                return tuple(words)
            answer = pid
        else:
            pid, status = os.waitpid(words[0], os.WNOHANG if what == "poll" else 0)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)
    return None


if __name__ == "__main__" and (given := serve()):
    said, script, *rest = given
    for number, target in enumerate((os.devnull, said, str(Path(said).with_suffix(".err")))):
        os.dup2(os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # the old one has read what the process was asked
    os.chdir(Path(said).parent)
    sys.argv, sys.path[0] = [script, *rest], str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")
