"""This project as a contender against itself, with `--parallel shard`."""

from functools import partial

from . import ours

prepare = partial(ours.prepare, transform="shard")
