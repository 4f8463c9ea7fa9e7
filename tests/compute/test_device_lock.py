"""Two devices in one process: MLX has one default device, so a thread for the other device waits."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import mlx.core as mx
import pytest

from mlx_qwen_embeddings.compute.mlx.backend import DeviceLock, choose_backend, computing
from tests.support.fake_encoder import PATIENCE


class Process:
    """A stand-in for MLX with two devices, which notices when the default changes under a thread that computes."""

    def __init__(self) -> None:
        self.device = "the user's"
        self.lock = DeviceLock()
        self.at_work: list[str] = []

    def default_device(self) -> str:
        return self.device

    def set_default_device(self, device: str) -> None:
        self.device = device

    @contextmanager
    def on(self, device: str) -> Iterator[None]:
        with self.lock.hold(device, self):
            self.at_work.append(device)
            yield
            assert self.device == device
            self.at_work.remove(device)

    def wait_for_queue(self, length: int) -> None:
        changed = self.lock._changed
        with changed:
            joined = (changed.wait_for(lambda: len(self.lock._queue) == length, 0.01) for _ in range(int(100 * PATIENCE)))
            assert any(joined)


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_the_previous_device_is_restored(process: Process) -> None:
    with process.on("cpu"), process.on("cpu"):
        assert process.device == "cpu"
    assert process.device == "the user's"
    with pytest.raises(ZeroDivisionError), process.lock.hold("gpu", process):
        _ = 1 / 0
    assert process.device == "the user's"


def test_one_device_at_a_time_first_come_first_served(process: Process, pool: ThreadPoolExecutor) -> None:
    order: list[str] = []

    def compute(device: str) -> None:
        with process.on(device):
            order.append(device)

    with process.on("cpu"):
        others = [pool.submit(compute, "gpu")]
        process.wait_for_queue(1)
        others.append(pool.submit(compute, "cpu"))  # if it could go on at once, the first would starve
        process.wait_for_queue(2)
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
            together.wait(PATIENCE)  # threads for one device run side by side

    for done in [pool.submit(compute, number) for number in range(600)]:
        done.result(PATIENCE)
    for done in [pool.submit(meet) for _ in range(2)]:
        done.result(PATIENCE)
    assert process.device == "the user's"


def test_a_forked_child_starts_unlocked(process: Process) -> None:
    with process.lock.hold("gpu", process):
        process.lock.after_fork_in_child()
        with process.lock.hold("cpu", process):
            assert process.device == "cpu"
        process.lock._holders += 1  # released at the end of the outer block


def test_the_cpu_is_chosen_whatever_the_process_has_chosen() -> None:
    with computing(choose_backend("cpu")):
        assert mx.default_device().type == mx.DeviceType.cpu
