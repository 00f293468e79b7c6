"""`python -m infoae_jax`."""

from infoae_jax.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
