"""Trains an Info-autoencoder: python launch.py --config=configs/mnist.py [--config.FIELD=VALUE ...]

With --sweep: trains all that the configuration's sweep(add) lists, and makes a page about them. `infoae train` does the
same where the package is installed without a clone.

Exit codes: 0 done, or stopped by a signal and ready to resume; 1 training diverged, or a trial of a sweep failed;
2 the input cannot work; 70 a fault of the program, with a traceback; 141 the reader of its output has gone.
"""

import sys

from infoae_jax.cli.train import launch

if __name__ == "__main__":
    sys.exit(launch())
