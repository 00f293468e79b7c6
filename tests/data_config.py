"""Configurations of data sets, to be loaded through a cache of their own."""

from infoae_jax.config import parse


def config_of(module, cache, arg="", **overrides):
    values = module.get_config(arg)
    values.data.cache_dir = str(cache)
    values.data.update(overrides)
    return parse(values).data
