"""Trains an Info-autoencoder: python launch.py --config=configs/mnist.py [--config.FIELD=VALUE ...]

With --sweep: trains all that the configuration's sweep(add) lists, and makes a page about them.

Exit codes: 0 done, or stopped by a signal and ready to resume; 1 training diverged, or a trial of a sweep failed;
2 the input cannot work.
"""

import signal
import sys

from absl import app, flags

from infoae_jax.cli import sweep, train
from infoae_jax.errors import DivergedError, UserError

for module in (train, sweep):
    flags.adopt_module_key_flags(module)  # so that --help shows them

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until training handles it
    try:
        app.run(train.main, flags_parser=train.parse_flags)
    except (UserError, DivergedError) as error:
        sys.exit(train.print_error(error))
    except KeyboardInterrupt:
        print("Interrupted. What was saved before is intact; the same command resumes.")
