"""Runs that are killed and resumed end as runs that nothing stopped."""

import numpy as np
import pytest

from tests.faults import kills


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.mark.parametrize(("name", "seed"), [("translate", 0), ("classify", 1)])
def test_a_run_that_is_stopped_ends_as_one_that_is_not(name, seed, folder, tmp_path):
    whole = kills.reference(name, folder)
    assert kills.kill_once(name, whole, tmp_path / "killed", np.random.default_rng(seed)) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", kills.targets())
def test_every_verb_and_detector_is_stopped_several_times(name, folder, tmp_path):
    whole = kills.reference(name, folder)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        assert kills.kill_once(name, whole, tmp_path / f"{seed}", rng) is None
