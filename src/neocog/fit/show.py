"""What a person sees while something long is done, lines and a bar with the time left; and how Ctrl-C ends it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from neocog.names import shown
from neocog.records import worded

EVERY = 15.0  # seconds between lines where nobody sees a bar move


class Show:
    """Speaks on stderr, or not at all.

    On a terminal a bar moves; elsewhere (a log file, CI) a line appears every `every` seconds.
    """

    def __init__(self, on: bool = True, every: float | None = None) -> None:
        self.on, self.every = on, EVERY if every is None else every

    def say(self, text: str) -> None:
        """Print one line."""
        if self.on:
            print(shown(worded(text)), file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, what: str) -> Iterator[Callable[..., None]]:
        """A bar; the function that it gives takes the share that is done, in [0, 1], and a text."""
        if not self.on:
            yield lambda share, text="": None
            return
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
            )
            with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task(what, total=1.0, text="")

                def move(share: float, text: str = "") -> None:
                    progress.update(task, completed=share, text=text)

                yield move
            return
        begin = last = time.monotonic()

        def line(share: float, text: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= self.every and share < 1:
                last = now
                left = (now - begin) * (1 - share) / share if share > 0 else float("nan")
                self.say(f"{what} {100 * share:3.0f} %  {now - begin:.0f} s, about {left:.0f} s left  {text}")

        yield line

    @contextmanager
    def count(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A bar that is told how many are done, and of how many."""
        with self.bar(what) as move:
            yield lambda done, of: move(done / max(of, 1), f"{done:,} of {of:,}")


@contextmanager
def interruptible(active: bool = True) -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C is only noted, and the function that this gives says so; a second one interrupts at once.

    An interrupt that arrives inside a library's callback can be lost there: Python prints it and goes on.
    """
    asked = False
    if not active or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
