"""Runs that are killed and resumed end as runs that nothing stopped."""

import numpy as np
import pytest

from tests.faults import kills


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.mark.parametrize("name", kills.targets())
def test_a_run_that_is_stopped_ends_as_one_that_is_not(name, folder, tmp_path):
    whole = kills.reference(name, folder)
    rng = np.random.default_rng(list(kills.targets()).index(name))
    assert kills.kill_once(name, whole, tmp_path / "killed", rng) is None
