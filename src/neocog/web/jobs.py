"""Long work in processes of its own: it survives a closed page and a server that is started again.

A job is a folder: ``job.json`` says what is to be done, ``output.txt`` is what the process prints, ``end.json`` what
came of it; all but the output are written whole. The process holds the lock of ``running`` as long as it lives,
however it ends, so a job without an end whose lock is free has crashed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from neocog.errors import LibraryError, UsageError
from neocog.files import locked, read_dict, write_atomically
from neocog.names import json_text

AT_ONCE = 4  # jobs that run at the same time
OVER = ("done", "failed", "cancelled", "crashed")
_ID = re.compile(r"[0-9a-f]{16}")
_TAIL = 4000  # bytes of the output in which the last line is looked for
_SHARE = re.compile(r"(\d+) %(?:.*about (\d+) s left)?")
_KEPT = 200  # jobs that are listed


def jobs_folder() -> Path:
    """Return where the user's jobs are: ``$XDG_STATE_HOME/neocog/jobs``."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return Path(state) / "neocog" / "jobs"


class NotServed(LibraryError):
    """There is no library, run or job of that name."""


class Jobs:
    """The jobs in a folder. Several threads may ask."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or jobs_folder()
        self._lock = threading.Lock()
        self._ended: dict[str, dict[str, Any]] = {}  # jobs that will not change any more

    def start(self, kind: str, title: str, **settings: Any) -> dict[str, Any]:
        """Begin a job and return it, see `get`; what `settings` may be is up to worker.py.

        Raises:
            UsageError: too many jobs are running.
        """
        with self._lock:
            if sum(one["state"] == "running" for one in self.list()) >= AT_ONCE:
                raise UsageError(f"{AT_ONCE} jobs are running already; wait for one, or cancel it")
            id = secrets.token_hex(8)
            folder = self.folder / id
            folder.mkdir(parents=True)
            record = {"id": id, "kind": kind, "title": title, "started": time.time(), **settings}
            held = _locked(folder / "running")  # before anybody can see the job, and take it for one that has crashed
            write_atomically(folder / "job.json", json_text(record).encode())
            with open(folder / "output.txt", "wb") as output:
                command = [sys.executable, "-m", "neocog.web.worker", str(folder)]
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                    pass_fds=() if held is None else (held,), env={**os.environ, "NEOCOG_JOB_LOCK": str(held or "")},
                )  # fmt: skip
            if held is not None:
                os.close(held)  # the child has it
            threading.Thread(target=process.wait, daemon=True).start()  # so that nothing is left of it when it ends
            write_atomically(folder / "pid", str(process.pid).encode())
        return self.get(id)

    def list(self) -> list[dict[str, Any]]:
        """Return the jobs, the newest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for folder in self.folder.iterdir():
            with contextlib.suppress(NotServed):
                found.append(self.get(folder.name))
        return sorted(found, key=lambda one: -one["started"])[:_KEPT]

    def get(self, id: str) -> dict[str, Any]:
        """Return a job: what it was started with, and state, progress (0 to 1), left (seconds), message, error, result.

        state: running, done, failed, cancelled or crashed. Raises: NotServed: there is no such job.
        """
        if id in self._ended:
            return dict(self._ended[id])
        job = self._read(id)
        if job["state"] in OVER:
            self._ended[id] = job
        return dict(job)

    def _read(self, id: str) -> dict[str, Any]:
        folder = self.folder / id
        record = read_dict(folder / "job.json") if _ID.fullmatch(id) else {}
        if not record:
            raise NotServed(f"there is no job {id[:40]!r}")
        job = {"progress": None, "left": None, "message": "", "error": None, "result": None, **record}
        alive = self._alive(id)  # asked before the end is read: it may come between the two
        end = read_dict(folder / "end.json")
        job["message"] = message = _last_line(folder / "output.txt")
        if end:
            return {**job, **end, "progress": 1.0 if end["state"] == "done" else None}
        if not alive and (folder / "cancelled").exists():  # before it had begun
            return {**job, "state": "cancelled"}
        if not alive:
            told = f"; the last it said: {message}" if message else ""
            return {**job, "state": "crashed", "error": f"its process ended without a word (out of memory?){told}"}
        if share := _SHARE.search(message):
            job["progress"], job["left"] = int(share[1]) / 100, int(share[2]) if share[2] else None
        return {**job, "state": "running"}

    def cancel(self, id: str) -> dict[str, Any]:
        """Stop a job as Ctrl-C does, so that nothing is lost. A training can be resumed."""
        if self.get(id)["state"] == "running":
            (self.folder / id / "cancelled").touch()
            pid = int((self.folder / id / "pid").read_text())
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        return self.get(id)

    def _alive(self, id: str) -> bool:
        file = _locked(self.folder / id / "running")
        if file is None:
            return True
        os.close(file)
        return False


def _locked(path: Path) -> int | None:
    """An open file with its lock; None where somebody else has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if locked(file):
        return file
    os.close(file)
    return None


def _last_line(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip()[:300] if lines else ""
