"""Flags of the compiler, beside those of the environment."""

import os
import subprocess
import sys

import jax
import pytest

from cnn_jax.training import compiler

FUSION = "--xla_cpu_experimental_ynn_fusion_type"
PROGRAM = """
import jax
import jax.numpy as jnp
from cnn_jax.training import compiler

compiler.set_flags()
x = jnp.ones((64, 64))
print(jax.jit(lambda a, b: (a @ b).max(-1)).lower(x, x).compile().as_text())
"""


def test_products_are_not_fused():
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "JAX_PLATFORMS": "cpu"},
    )
    assert " dot(" in run.stdout
    assert jax.__version_info__ >= (0, 11) or "ynn_fusion" not in run.stdout


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_environment_has_the_last_word(monkeypatch, deterministic):
    said = f"--xla_gpu_deterministic_ops=false {FUSION}=LIBRARY_FUSION_TYPE_REDUCE"
    monkeypatch.setenv("XLA_FLAGS", said)
    compiler.set_flags(deterministic=deterministic)
    assert os.environ["XLA_FLAGS"] == said


def test_deterministic_kernels_are_asked_for(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=dump")
    compiler.set_flags(deterministic=True)
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[0] == "--xla_dump_to=dump"
    assert "--xla_gpu_deterministic_ops=true" in flags
