"""The choice of device, dtype and BLAS, and the messages when one is missing."""

import ctypes.util
import importlib
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from mlx_qwen_embeddings.compute.mlx import backend, blas
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from mlx_qwen_embeddings.compute.mlx.blas import measure_bandwidth, measure_gflops
from mlx_qwen_embeddings.errors import MissingExtraError, ModelLoadError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems bring their BLAS with MLX")


def with_gpu(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    fake = SimpleNamespace(is_available=lambda device: there, gpu="gpu", cpu="cpu")
    monkeypatch.setattr(backend, "_import_mlx", lambda: fake)


@pytest.mark.parametrize(
    ("gpu", "device", "dtype", "expected"),
    [
        (False, "auto", "auto", ("cpu", "float32")),
        (True, "auto", "auto", ("gpu", "bfloat16")),
        (True, "gpu", "float32", ("gpu", "float32")),
        (True, "cpu", "auto", ("cpu", "float32")),
        (False, "cpu", "bfloat16", ("cpu", "bfloat16")),
    ],
)
def test_device_and_type(
    gpu: bool,  # noqa: FBT001 - a parameter of the test
    device: Any,
    dtype: Any,
    expected: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_gpu(monkeypatch, there=gpu)
    chosen = choose_backend(device, dtype)
    assert (chosen.device, chosen.dtype) == expected


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, there=False)
    with pytest.raises(ModelLoadError, match="MLX sees no GPU here: use device='cpu' or 'auto'"):
        choose_backend("gpu")


def test_without_a_back_end_the_message_gives_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        message = "libmlx.so: cannot open shared object file"
        raise ImportError(message)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MissingExtraError) as caught:
        choose_backend()
    for part in ("libmlx.so", 'pip install "mlx-qwen-embeddings[cpu]"', "[cuda12]", "[cuda13]"):
        assert part in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ImportError)


def test_an_intel_python_on_a_mac_is_named_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(MissingExtraError, match=r"built for x86_64 \(an Intel Mac, or Rosetta\): install an arm64"):
        choose_backend()


def test_products_and_reads_are_timed() -> None:
    assert measure_gflops(mx, size=32, repeats=1) > 0
    assert measure_bandwidth(mx, megabytes=1, repeats=1) > 0


@pytest.mark.parametrize(("rate", "said"), [(4.0, True), (11.9, True), (50.0, False)])
def test_slow_products_are_warned_about_once(
    rate: float,
    said: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(blas, "_measured", {})
    monkeypatch.setattr(blas, "measure_gflops", lambda mx, **_: rate)
    for _ in range(2):
        blas.warn_if_slow(mx)
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == said
    assert all('pip install "mlx-qwen-embeddings[cpu]"' in message for message in messages)


def test_a_slow_measurement_is_repeated_before_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blas, "_measured", {})
    rates = iter([3.0, 150.0])
    monkeypatch.setattr(blas, "measure_gflops", lambda mx, **_: next(rates))
    blas.warn_if_slow(mx)
    assert not caplog.records


# The BLAS, in interpreters that have not imported MLX


def bound(setup: str, **variables: str) -> tuple[str, str]:
    """Choose a back end in a fresh interpreter, and return the BLAS and what was logged."""
    module = "mlx_qwen_embeddings.compute.mlx.backend"
    program = f"{setup}\nfrom {module} import choose_backend\nprint(choose_backend('cpu').blas)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=variables)
    return done.stdout.strip(), done.stderr.strip()


@LINUX
def test_the_variable_chooses_the_blas(tmp_path: Path) -> None:
    own = ctypes.util.find_library("m")
    assert own is not None
    assert bound("", MLX_QWEN_BLAS=own) == (own, "")


@LINUX
def test_the_value_none_loads_no_blas() -> None:
    assert bound("", MLX_QWEN_BLAS="none") == ("None", "")


@LINUX
def test_a_blas_that_cannot_be_loaded_is_warned_about() -> None:
    blas, said = bound("", MLX_QWEN_BLAS="/no/such/libblas.so")
    assert blas == "None"
    assert "BLAS /no/such/libblas.so cannot be loaded" in said


@LINUX
def test_no_blas_is_loaded_after_mlx() -> None:
    assert bound("import mlx.core", MLX_QWEN_BLAS="libm.so.6") == ("None", "")


@LINUX
def test_importing_mlx_first_is_warned_about_once_with_the_remedy() -> None:
    embed = "with EmbeddingEngine('nano', device='cpu') as engine: engine.embed_query('a text')"
    program = f"import mlx.core\nfrom mlx_qwen_embeddings import EmbeddingEngine\n{embed}\n{embed}"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={}).stderr
    assert said.count("\n") == 1, said
    for part in (
        "matrix products run at",
        "GFLOP/s, on the reference BLAS of MLX's wheel: 20 to 95 times slower than needed",
        'pip install "mlx-qwen-embeddings[cpu]"',
        "import mlx_qwen_embeddings' engine before anything imports mlx.core",
    ):
        assert part in said


@LINUX
def test_the_blas_of_the_cpu_extra_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLX_QWEN_BLAS", raising=False)
    monkeypatch.setattr(blas, "_mkl", lambda: "/mkl")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so")
    assert list(blas._blas_candidates()) == ["/mkl", "libopenblas.so"]


# Forks


def test_freed_buffers_are_released_but_not_in_a_forked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fake = SimpleNamespace(clear_cache=lambda: calls.append("cleared"), get_peak_memory=lambda: 1)
    monkeypatch.setattr(backend, "_import_mlx", lambda: fake)
    backend.free_buffers()
    assert calls == ["cleared"]
    monkeypatch.setattr(backend, "is_forked", lambda: True)
    backend.free_buffers()
    assert calls == ["cleared"]


@pytest.mark.parametrize(
    ("given", "expected"), [("1", 1), ("1,2", 1), ("999", None), ("", None), ("all", None), ("0", None)]
)
def test_omp_num_threads_limits_the_cores(
    given: str,
    expected: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    unbound = blas.cores()
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert blas.cores() == (expected or unbound)
