"""What runs of a module share is what equal arguments give, and nothing else."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compiler

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


EMITTERS = "xla_cpu_use_fusion_emitters"

one_kind_alone = pytest.mark.skipif(
    jax.__version_info__ >= (0, 11), reason="this XLA has the emitters of fusions alone"
)


@one_kind_alone
@pytest.mark.parametrize(
    "mark",
    [None, *(pytest.param(m, marks=getattr(pytest.mark, m)) for m in ("fused", "optimized"))],
)
def test_only_marked_tests_compile_as_users_do(mark):
    given = compiler.get_compile_options(1, 1)
    assert dict(given.env_option_overrides).get(EMITTERS, False) == (mark is not None)
    assert (f"--{EMITTERS}=false" in os.environ["XLA_FLAGS"]) == (mark is None)
    debug = given.executable_build_options.debug_options
    assert debug.xla_llvm_disable_expensive_passes == (mark != "optimized")


@one_kind_alone
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an option of XLA for CPUs")
def test_xla_has_the_emitters_of_the_session_and_others_where_asked_for_them():
    lowered = jax.jit(lambda x: jax.nn.softmax(x.T * 2).sum(0) + x[0]).lower(jnp.ones((8, 8)))
    former, session, users = (
        lowered.compile(options).runtime_executable().serialize().count(b"fusion")
        for options in ({EMITTERS: False}, {}, {EMITTERS: True})
    )
    # The option itself is written into a program where it is given, and does not name a kernel.
    assert former - 1 == session != users - 1
