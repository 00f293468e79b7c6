"""`python -m infoae_jax`."""

import sys

from infoae_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
