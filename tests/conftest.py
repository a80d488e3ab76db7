"""What all tests share: no network, one hypothesis profile, and the way to run neocog in another process."""

from __future__ import annotations

import functools
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from killed import first_checkpoint_in
from PIL import Image, ImageDraw
from ready import Ready

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end: looking for cycles among them took a third of the collection's time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000)
        gc.enable()


# A time limit per example says more about the machine than about the code.
settings.register_profile("neocog", deadline=None, print_blob=True)
settings.load_profile("neocog")

_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: object) -> None:
    host = address[0] if isinstance(address, tuple) else "localhost"  # anything else is a socket in the file system
    if host not in ("127.0.0.1", "::1", "localhost", "", b"127.0.0.1", b"localhost"):
        raise OSError(f"a test tried to reach {address!r}; tests use no network beyond this machine")
    _connect(self, address)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _connect_here)


@pytest.fixture(autouse=True, scope="session")
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and what they share, leave the list of the user's libraries and the user's cache alone."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
        environment.setenv("NEOCOG_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What a test has written need not survive a power cut; what is killed leaves the same without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _commands_are_read_once() -> Iterator[None]:
    """Typer reads the options of all commands anew in every call, which takes longer than many a command."""
    import typer.testing

    once = functools.cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", once)
        patch.setattr(typer.testing, "_get_command", once)
        yield


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python ARGUMENTS`` in `tmp_path`, with this source tree importable and warnings as errors."""

    def run(
        *arguments: str, timeout: float = 120, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **environment},
            input=stdin,
            text=True,
            capture_output=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def first_checkpoint(tmp_path: Path) -> Iterator[Path]:
    """Where the first checkpoint that a training in this test writes leaves its run, as a kill right after it would."""
    with first_checkpoint_in(tmp_path / "part"):
        yield tmp_path / "part"


@pytest.fixture(scope="session")
def ready(_own_state: None) -> Iterator[Ready]:
    """Start scripts in processes that have PyTorch imported already."""
    server = Ready()
    yield server
    server.close()


@pytest.fixture(scope="session")
def arrows() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Arrows anywhere in the picture, in any colour on any ground: pictures uint8 (N, 48, 48, 3), and 1 where right.

    `easy`: light ones on dark ground in the middle.
    """

    def draw(n: int, seed: int = 0, *, easy: bool = False, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        sides = np.arange(n) % 2
        pictures = []
        for right in sides:
            ground, ink = rng.integers(0, 256, (2, 3))
            while abs(int(ground.sum()) - int(ink.sum())) < 200:
                ground, ink = rng.integers(0, 256, (2, 3))
            length, width = rng.uniform(0.4, 0.8) * size, rng.uniform(0.1, 0.2) * size
            x, y = rng.uniform(length / 2, size - length / 2), rng.uniform(1.6 * width, size - 1.6 * width)
            if easy:
                ground, ink, x, y = ground // 4, 255 - ink // 4, size / 2, size / 2
            tip, neck, end = np.array([-0.5, -0.05, 0.5]) * length * (-1 if right else 1) + x
            head = [(neck, y - 1.5 * width), (tip, y), (neck, y + 1.5 * width)]
            shaft = [(neck, y + width / 2), (end, y + width / 2), (end, y - width / 2), (neck, y - width / 2)]
            picture = Image.new("RGB", (size, size), tuple(map(int, ground)))
            ImageDraw.Draw(picture).polygon(head + shaft, fill=tuple(map(int, ink)))
            pictures.append((np.asarray(picture) + rng.normal(0, 8, (size, size, 3))).clip(0, 255).astype(np.uint8))
        return np.stack(pictures), sides

    return draw


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of reference data; the test is skipped where there is none."""
    return _resource("NEOCOG_DATA")


@pytest.fixture(scope="session")
def facts_folder() -> Path:
    """The folder of published figures and reference outputs; the test is skipped where there is none."""
    return _resource("NEOCOG_FACTS")


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """The folder of reference weights; the test is skipped where there is none."""
    return _resource("NEOCOG_WEIGHTS")


def _resource(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{variable} is not set to a folder")
    return Path(folder)
