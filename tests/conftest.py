"""Settings of all tests: eight CPU devices, strict rank promotion, fixtures, cached programs."""

import contextlib
import dataclasses
import functools
import gc
import importlib.metadata
import os
import signal
from pathlib import Path

# On a loaded machine of few cores one of the eight devices may keep the others waiting for longer
# than the 40 seconds after which XLA aborts the process.
FLAGS = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
# Most of the suite's time is compiling programs that run for a moment; commands that tests start
# read these too. `tests/models/test_as_users.py` compiles as users do.
if not os.environ.get("GENJAX_TEST_AS_USERS"):
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    FLAGS += " --xla_cpu_parallel_codegen_split_count=1"  # each worker has a core
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # the flag is gone since
        FLAGS += " --xla_cpu_use_fusion_emitters=false"  # a third of the time
# Each worker has a core; more threads of the matrix products only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
# All workers share the compiled programs, which are kept for the next run.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "genjax/tests-xla"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest

from genjax.evaluation import distances
from genjax.metrics import classifier
from genjax.metrics.frechet import frechet_distance_error
from genjax.run.recipe import Recipe
from genjax.run.sharding import Steps
from genjax.trainer import loop, writer

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes millions of objects that live on, which Python would look through again and again.
gc.set_threshold(100_000, 20, 100)

CACHE_BYTES = 4 * 2**30  # of compiled programs that are kept
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """Return the folder of data and reference vectors beside the checkout."""
    if not SHARED.is_dir():
        if os.environ.get("GENJAX_REQUIRE_SHARED"):
            pytest.fail(f"{SHARED} is required and is not there")
        pytest.skip("needs ../shared, the data and reference vectors beside the checkout")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
    """Keep tests away from the user's cache folder; train and resample a little only."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    classifier.STEPS = 100
    distances.frechet_distance_error = functools.partial(frechet_distance_error, resamplings=3)


@contextlib.contextmanager
def _replaced(module, name, value):
    """Replace an attribute of a module; the context that it gives brings the original back."""
    original = getattr(module, name)

    @contextlib.contextmanager
    def restored():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, original)
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, value)
        yield restored


@pytest.fixture(scope="session", autouse=True)
def real_curves():
    """Turn off curves, which take longer than a small run; the context that it gives draws them."""
    with _replaced(writer, "curves", lambda records: b"") as real:
        yield real


@pytest.fixture(scope="session", autouse=True)
def eight_devices():
    """Let runs take one device, or all within `eight_devices()`, which takes thrice the time."""
    with _replaced(loop, "Steps", functools.partial(Steps, devices=jax.devices()[:1])) as eight:
        yield eight


@pytest.fixture(scope="session", autouse=True)
def real_quality():
    """Let pixels choose the best of a GAN, without a classifier; or features, in its context."""
    real = Recipe.with_quality

    def with_quality(recipe, spec):
        if recipe.quality == "auto" and recipe.functions.evaluate is None:
            recipe = dataclasses.replace(recipe, quality="energy_distance")
        return real(recipe, spec)

    with _replaced(Recipe, "with_quality", with_quality) as original:
        yield original


@pytest.fixture(scope="module")
def optimized_programs():
    """Turn on all of XLA's optimizations, without which most tests run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def stop_signal(request):
    """Give a signal that stops a training; neither a mistake nor nohup matters to the tests."""
    before = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    signal.signal(request.param, before)


@pytest.fixture(autouse=True)
def _full_precision(request):
    """Let an accelerator multiply float32 as a CPU does, where tests compare with references."""
    if jax.default_backend() == "cpu" or request.path.parent.name not in ("interop", "nn"):
        yield
    else:
        with jax.default_matmul_precision("highest"):
            yield


@pytest.fixture(scope="module", autouse=True)
def _free_programs():
    """Free compiled programs: they hold memory maps, of which a process may have 65,530."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 10_000:
        jax.clear_caches()


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks
def pytest_collection_modifyitems(items):
    """Keep the tests of a file in one worker, as they share runs and compiled programs."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_sessionstart(session):
    """Keep the newest of the compiled programs, in the process that starts the workers."""
    cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    if hasattr(session.config, "workerinput") or not cache.is_dir():
        return
    size = 0
    for file in sorted(cache.iterdir(), key=lambda file: -file.stat().st_mtime):
        size += file.stat().st_size
        if size > CACHE_BYTES:
            file.unlink()
