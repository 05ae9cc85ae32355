"""Every registered format has a writer, and what it writes is read."""

import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data import text
from tests.faults.kinds import formats

GENERATED = {"shapes", "dates"}


def test_every_registered_format_is_mutated():
    tables = (data.FORMATS, data.BOX_FORMATS, data.MASK_FORMATS, data.TAG_FORMATS, text.FORMATS)
    registered = {name for table in tables for name in table} - GENERATED
    assert registered <= {name.split("_")[0] for name in formats()}


@pytest.mark.parametrize("name", formats())
@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_is_read(tmp_path, name, seed):
    write, read = formats()[name]
    write(tmp_path, np.random.default_rng(seed))
    read(tmp_path)
