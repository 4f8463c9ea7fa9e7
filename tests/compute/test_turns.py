"""Two devices in one process: MLX has one default device, so what computes on the other one waits for its turn."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import mlx.core as mx
import pytest

from mlx_qwen_embeddings.compute.mlx.backend import Turns, choose_backend, computing
from tests.support.fake_encoder import PATIENCE


class Process:
    """Stands for MLX in a process with two devices, and notes when one is changed under somebody who computes."""

    def __init__(self) -> None:
        self.device = "the user's"
        self.turns = Turns()
        self.at_work: list[str] = []

    def default_device(self) -> str:
        return self.device

    def set_default_device(self, device: str) -> None:
        self.device = device

    @contextmanager
    def on(self, device: str) -> Iterator[None]:
        with self.turns.on(device, self):
            self.at_work.append(device)
            yield
            assert self.device == device
            self.at_work.remove(device)

    def wait_for_line(self, length: int) -> None:
        changed = self.turns._changed
        with changed:
            joined = (changed.wait_for(lambda: len(self.turns._line) == length, 0.01) for _ in range(int(100 * PATIENCE)))
            assert any(joined)


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_the_device_of_before_comes_back(process: Process) -> None:
    with process.on("cpu"), process.on("cpu"):
        assert process.device == "cpu"
    assert process.device == "the user's"
    with pytest.raises(ZeroDivisionError), process.turns.on("gpu", process):
        _ = 1 / 0
    assert process.device == "the user's"


def test_one_device_at_a_time_in_the_order_of_asking(process: Process, pool: ThreadPoolExecutor) -> None:
    order: list[str] = []

    def compute(device: str) -> None:
        with process.on(device):
            order.append(device)

    with process.on("cpu"):
        others = [pool.submit(compute, "gpu")]
        process.wait_for_line(1)
        others.append(pool.submit(compute, "cpu"))  # it could go on at once, and the other would never have its turn
        process.wait_for_line(2)
        assert order == []
    for other in others:
        other.result(PATIENCE)
    assert order == ["gpu", "cpu"]


def test_many_threads_on_two_devices(process: Process, pool: ThreadPoolExecutor) -> None:
    together = threading.Barrier(2)

    def compute(number: int) -> None:
        device = "cpu" if number % 3 else "gpu"
        with process.on(device):
            assert set(process.at_work) == {device}

    def meet() -> None:
        with process.on("cpu"):
            together.wait(PATIENCE)  # those on one device go side by side

    for done in [pool.submit(compute, number) for number in range(600)]:
        done.result(PATIENCE)
    for done in [pool.submit(meet) for _ in range(2)]:
        done.result(PATIENCE)
    assert process.device == "the user's"


def test_a_forked_child_starts_afresh(process: Process) -> None:
    with process.turns.on("gpu", process):
        process.turns.forget()
        with process.turns.on("cpu", process):
            assert process.device == "cpu"
        process.turns._at_work += 1  # which this process's block gives back


def test_the_cpu_is_chosen_whatever_the_process_has_chosen() -> None:
    with computing(choose_backend("cpu")):
        assert mx.default_device().type == mx.DeviceType.cpu
