"""Settings of every test: four virtual devices, no silent broadcast or promotion, checked shapes.

Most of the suite's time is XLA's. Two settings keep it short, for the tests and for the processes
that they start:

- Programs are compiled without LLVM's optimisations, and by the emitters that XLA had before those
  of whole fusions, which take twice the time. The former round otherwise where the same layers
  stand in different programs, so tests that compare such bits are marked `fused` and compiled with
  those of fusions. Tests whose bits need LLVM's passes too, or that look at what is compiled, are
  marked `optimized` and compiled as users' programs are.
- What one test compiled is read by the others from a folder that lives as long as the session.
"""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

if "PYTEST_XDIST_WORKER" not in os.environ:
    # Workers and the tests' processes inherit the environment, and with it this folder.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Read by XLA when the first backend starts, so it must be set before anything touches a device.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from jax._src import compiler
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Every public function's shape and dtype annotations are checked at run time.
install_import_hook("cnn_jax", "beartype.beartype").__enter__()

# Tracing makes many objects that stay; to look through them all again and again costs a tenth.
gc.set_threshold(100_000, 20, 50)

MEMORY_MAPS = 30_000  # A process may have some 65,000.
FORMER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
# The XLA of jax 0.12 has no others, and ends a process that is given an option it does not know.
HAS_FORMER_EMITTERS = jax.__version_info__ < (0, 11)


def _set_emitters(former):
    """Choose XLA's emitters for the processes that tests start, and for this one at its start."""
    if not HAS_FORMER_EMITTERS:
        return
    given = os.environ.get("XLA_FLAGS", "").replace(FORMER_EMITTERS, "").split()
    os.environ["XLA_FLAGS"] = " ".join([*given, FORMER_EMITTERS] if former else given)


_set_emitters(former=True)


@pytest.fixture(autouse=True)
def _optimizations(request):
    """Compile as the marks `fused` and `optimized` say, in the modules and tests that have one."""
    optimized = request.node.get_closest_marker("optimized") is not None
    fused = request.node.get_closest_marker("fused") is not None
    former = HAS_FORMER_EMITTERS and not (optimized or fused)
    disabled = str(int(not optimized))
    if (os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"], _former()) != (disabled, former):
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", not optimized)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = disabled
        _set_emitters(former)


def _former():
    return FORMER_EMITTERS in os.environ.get("XLA_FLAGS", "")


def _compile_options(*args, **keywords):
    """JAX's options of a program, with XLA's own emitters in tests that are marked.

    XLA reads XLA_FLAGS once in a process, and JAX has no setting for it, only an option of `jit`.
    """
    if not _former():
        given = keywords.get("env_options_overrides") or {}
        keywords["env_options_overrides"] = {"xla_cpu_use_fusion_emitters": True, **given}
    return _jax_s_options(*args, **keywords)


if HAS_FORMER_EMITTERS:
    _jax_s_options, compiler.get_compile_options = compiler.get_compile_options, _compile_options


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a worker neighbouring tests: fewer fixtures of modules are made in both workers."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture(scope="module")
def shared_programs():
    """Let the runs of a module share what they trace and compile (see `tests.programs`)."""
    # Not above: the hook of annotations comes first.
    from tests import programs

    with programs.shared():
        yield


@pytest.fixture
def own_programs():
    """Let the runs of a test trace and compile by themselves, within a module that shares."""
    from tests import programs

    with programs.own():
        yield


@pytest.fixture(autouse=True, scope="module")
def _few_memory_maps():
    """Forget compiled programs, of which each has memory maps, before there are too many."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_text().count("\n") > MEMORY_MAPS:
        jax.clear_caches()
