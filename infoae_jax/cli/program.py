"""How the programs begin and end: output that any console can print, signals, and exit codes."""

import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable

from absl import logging

from infoae_jax.devices.signals import end_on_signals, tell_interrupted
from infoae_jax.errors import DivergedError, UserError, as_sentence

DIVERGED, IMPOSSIBLE, CRASHED, INTERRUPTED, BROKEN_PIPE = 1, 2, 70, 130, 141
# 70: sysexits.h calls it 'software error'; 130 and 141: what shells report after SIGINT and SIGPIPE.


def run_program(run: Callable[[], int | None], when_interrupted: tuple[int, str]) -> int:
    """Calls `run`, and returns the exit code: what it returns, or what tells how it failed.

    Args:
      when_interrupted: the exit code after SIGINT and SIGTERM, and what to say then.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the encoding of the console may lack what a name holds
    logging.set_verbosity(logging.FATAL)  # what Orbax logs as an error, it also raises
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    end_on_signals(*when_interrupted)
    try:
        code = run() or 0
        if sys.stdout is not None:  # closed
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the exit
        return BROKEN_PIPE
    except (UserError, DivergedError, OSError) as error:
        print(f"error: {as_sentence(error)}", file=sys.stderr)
        return DIVERGED if isinstance(error, DivergedError) else IMPOSSIBLE
    except KeyboardInterrupt:
        tell_interrupted(when_interrupted[1])
        return when_interrupted[0]
    except Exception:
        traceback.print_exc()
        return CRASHED
