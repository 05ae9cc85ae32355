"""Programs that do not train are compiled product by product on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.training import compiler, parallel
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import Task

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11),
    reason="an option of XLA for CPUs, known of jax 0.10",
)


def largest_of_product(a, b):
    return (a @ b).max(axis=-1)


def test_a_product_is_not_fused_with_what_follows():
    x = jnp.ones((64, 64))
    plain = jax.jit(largest_of_product).lower(x, x).compile().as_text()
    inference = compiler.compile_inference(largest_of_product).lower(x, x).compile().as_text()
    # Should the first fail, XLA no longer does what the option turns off.
    assert "ynn_fusion" in plain
    assert "ynn_fusion" not in inference


def test_evaluation_is_compiled_so_once_a_shape(monkeypatch):
    class Product(Task):
        def predict(self, params, model_state, batch):
            return largest_of_product(batch["image"], params)

        def measure(self, predictions, batch):
            return {"sum": predictions.sum()}

    compiled, compile_it = [], jax.stages.Lowered.compile

    def counted(self, compiler_options=None):
        compiled.append(compiler_options)
        return compile_it(self, compiler_options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", counted)
    params = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    state = parallel.replicate(TrainState(np.int32(0), params, {}, ()))
    evaluate = parallel.compile_evaluation_step(Product())
    for rows in (4, 2, 4):
        image = np.random.default_rng(rows).normal(size=(rows * 8, 8)).astype(np.float32)
        sums, predictions = evaluate(state, parallel.split({"image": image}))
        expected = (image @ params).max(axis=-1)
        np.testing.assert_allclose(parallel.merge(predictions), expected, rtol=1e-5)
        np.testing.assert_allclose(sums["sum"], expected.sum(), rtol=1e-5)
    assert compiled == [compiler.inference_options()] * 2
