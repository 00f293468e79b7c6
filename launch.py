"""Trains an Info-autoencoder. The same command resumes a training that was stopped.

Examples:
  python launch.py --config=configs/mnist.py                      into runs/mnist
  python launch.py --config=configs/mnist.py --config.model.bottleneck=32 --workdir=runs/wide
  python launch.py --config=configs/mnist.py --sweep              all trials of the configuration, and a page about them
  python launch.py --config=configs/mnist.py --sweep_list         which these are, and how long they take

Any setting of configs/base.py can be set by --config.SECTION.NAME=VALUE. Without a clone, `infoae train` and `infoae
sweep` do the same.

Exit codes: 0 done, or stopped by a signal and ready to resume; 1 training diverged, or a trial of a sweep failed;
2 the input cannot work; 70 a bug in the program, with a traceback; 141 the reader of the output has gone.
"""

import sys

from infoae_jax.cli.train import launch

if __name__ == "__main__":
    sys.exit(launch())
