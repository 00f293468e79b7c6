"""Signals that ask a process to stop."""

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SECONDS_TO_END = 4  # for a process that was asked to end and has nothing to save
_saves = [False]  # whether a signal now leads to a checkpoint, which may take its time
_has_told = [False]  # whether the program has said how it ends


@functools.cache  # once for a process
def end_on_signals(code: int, message: str) -> None:
    """Lets SIGINT and SIGTERM raise KeyboardInterrupt and, if the process still runs a while later, end it.

    Threads and compilers do not hear of an exception. For programs: `code` is their exit code then, after `message`.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)

    def watch() -> None:
        with theirs:  # is not closed before
            while ours.recv(1)[0] not in (signal.SIGINT, signal.SIGTERM) or _saves[0]:
                pass
            time.sleep(SECONDS_TO_END)
            if not _has_told[0]:
                os.write(2, f"{message}\n".encode())
            os._exit(code)

    threading.Thread(target=watch, daemon=True).start()


def tell_interrupted(message: str) -> None:
    """Prints how the program ends, which `end_on_signals` then does not repeat."""
    _has_told[0] = True
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGINT, SIGTERM, or SIGUSR2 (Slurm's, before time is over) has come."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if not _saves[0] or (received and number == signal.SIGINT):
            raise KeyboardInterrupt
        received.append(number)
        print("\nStopping after this step, and saving ...", file=sys.stderr, flush=True)

    is_main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    names = ("SIGINT", "SIGTERM", "SIGUSR2") if is_main else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has no SIGUSR2
    former = {number: signal.signal(number, remember) for number in numbers}
    try:
        with _saving(is_main):
            yield lambda: bool(received)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def nothing_to_save() -> contextlib.AbstractContextManager[None]:
    """Within `stop_signals`, lets signals interrupt at once: for compilations, which may take minutes."""
    return _saving(False)


@contextlib.contextmanager
def _saving(is_on: bool) -> Iterator[None]:
    former, _saves[0] = _saves[0], is_on
    try:
        yield
    finally:
        _saves[0] = former
