"""Ctrl-C between two steps, not inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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
