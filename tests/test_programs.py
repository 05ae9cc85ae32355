"""What runs of a module share is what equal arguments give, and nothing else."""

from functools import partial

import numpy as np
import pytest

from tests import programs


@pytest.fixture
def counted():
    """A function that is called once for equal arguments, and its calls."""
    calls = []

    def function(*args, **keywords):
        calls.append((args, keywords))
        return object()

    return programs.once(function), calls


def test_equal_arguments_give_the_same_object(counted):
    function, calls = counted
    assert function((1, "a"), rate=0.5) is function((1, "a"), rate=0.5)
    assert function(partial(max, 1, key=abs)) is function(partial(max, 1, key=abs))
    assert len(calls) == 2


def test_others_do_not(counted):
    function, calls = counted
    for given in (1, 1.0, True, 2, (1,), partial(max, 1), partial(max, 1.0), partial(min, 1)):
        function(given)
    function(rate=1)
    assert len(calls) == 9
    # Arrays have no hash: each call is made.
    assert function(np.zeros(2)) is not function(np.zeros(2))


def test_settings_and_tests_that_make_their_own_are_told_apart(counted, monkeypatch):
    function, _ = counted
    first = function(1)
    with programs.own():
        assert function(1) is not first
    assert function(1) is first
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "other")
    assert function(1) is not first


def test_an_error_is_not_kept():
    answers = iter([ValueError("no"), None])

    def function():
        if (error := next(answers)) is not None:
            raise error
        return "done"

    once = programs.once(function)
    with pytest.raises(ValueError, match="no"):
        once()
    assert once() == "done"
