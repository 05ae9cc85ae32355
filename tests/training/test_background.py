"""The thread that works in the background."""

import pytest

from cnn_jax.training.background import Background


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit(1)])
def test_a_job_that_fails_keeps_nobody_waiting(failure):
    """SystemExit too, which ends a thread without a word: rich raises it where a pipe is broken."""
    done = []

    def fail():
        raise failure

    with Background() as background:
        for job in (lambda: done.append(1), fail, lambda: done.append(2)):
            background.submit(job)
        background.join()
        assert background.failure is failure
        assert background.idle
    assert done == [1]
    assert background.idle  # so that a join afterwards ends
