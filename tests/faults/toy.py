"""A kind of case whose outcomes are known, for the campaign's own tests."""

import functools
import time

from cnn_jax.errors import UserError
from tests.faults.campaign import Kind


def behave(target, rng, folder, tell):
    tell(f"{target} of {rng.integers(100)}")
    if target == "refuses":
        raise UserError("a: is wrong")
    if target == "breaks":
        raise KeyError("x")
    if target == "hangs":
        time.sleep(60)
    if target == "swells":
        bytearray(2**30)


TARGETS = ("accepts", "refuses", "breaks", "hangs", "swells")


@functools.cache
def kinds():
    return {"toy": Kind(lambda: TARGETS, behave, 6, seconds=1.0, memory=100 * 2**20)}
