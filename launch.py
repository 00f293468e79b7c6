"""Trains an Info-autoencoder: python launch.py --config=configs/mnist.py [--config.FIELD=VALUE ...]

Exit codes: 0 done, or stopped by a signal and ready to resume; 1 training diverged; 2 the input cannot work.
"""

import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from infoae_jax.config import parse
from infoae_jax.errors import DivergedError, UserError, as_sentence

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, for instance configs/mnist.py:tiny")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; default: runs/<name of the configuration>")
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "CPU only: how many devices share each batch; default: one for each core", lower_bound=1
)
_CACHE = flags.DEFINE_boolean("compilation_cache", True, "Keep compiled programs in the user's cache folder")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.FATAL)  # what Orbax logs as an error is also raised, and said in one sentence below
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    config = parse(_CONFIG.value)
    name, _colon, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    workdir = (
        Path(_WORKDIR.value).expanduser()
        if _WORKDIR.value
        else Path("runs") / "-".join(filter(None, (Path(name).stem, variant.replace(",", "-"))))
    )

    from infoae_jax.process import set_up  # here, so that mistakes are answered before JAX is imported
    from infoae_jax.train import fit

    set_up(config.train.batch_size, _CPU_DEVICES.value, _CACHE.value)
    result = fit(config, workdir)
    stopped = f"Stopped and saved at step {int(result.state.step)}. To go on: python {shlex.join(sys.argv)}"
    print(f"Finished: {workdir}" if result.finished else stopped)
    if result.finished and config.evaluate.at_end != "no":
        from infoae_jax import evaluate, table

        print(
            table.as_text(
                evaluate.evaluate(workdir, evaluate.PROTOCOLS[config.evaluate.at_end], data_dir=config.data.dir)
            )
        )


def _flags(argv: list[str]) -> list[str]:
    """Parses the command line; what cannot be parsed is answered with a sentence, not a traceback."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"Do not know what to do with {rest[1]!r}; options are written --name=value.")
        if _CONFIG.value is None:
            raise UserError("Say what to train: --config=configs/mnist.py, svhn.py, rendered.py or folder.py.")
        parse(_CONFIG.value)  # also raises what loading the file raised
        return rest
    except Exception as error:  # a configuration file is the user's code and may raise anything
        sys.exit(_say(error, argv))


def _say(error: BaseException, argv: Sequence[str] = ()) -> int:
    print(f"error: {as_sentence(error, argv)}", file=sys.stderr)
    return 1 if isinstance(error, DivergedError) else 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until training begins, which handles both itself
    try:
        app.run(main, flags_parser=_flags)
    except (UserError, DivergedError) as error:
        sys.exit(_say(error))
    except KeyboardInterrupt:
        print("Interrupted. What was saved before is intact, and the same command goes on.")
