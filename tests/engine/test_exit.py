"""The end of a process: whatever an engine is doing, the interpreter exits soon and with its own exit status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import mlx.core as mx
import pytest

from tests.support.native_stacks import native_stacks

if not hasattr(os, "fork"):
    pytest.skip("signals and forks are POSIX", allow_module_level=True)

SECONDS = 60
"""Longest that a process may take; on a busy machine most of it goes into imports."""

SETUP = """
import asyncio, faulthandler, signal, sys, threading
faulthandler.register(signal.SIGUSR1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes background processes ignore it
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
choose_backend()  # before anything imports MLX
sys.path.insert(0, {folder!r})
from tests.support.fake_encoder import WatchedEncoder
from mlx_qwen_embeddings import EmbeddingEngine
engine = EmbeddingEngine("nano", cache_bytes=0, batch_tokens=256)
MANY = [f"text number {{number}} of a long call" for number in range(4000)]
"""


def run(program: str) -> tuple[int, list[str], str]:
    """Run a program after ``SETUP`` and return its exit status, the lines it printed, and its standard error."""
    source = SETUP.format(folder=str(Path(__file__).parents[2])) + program
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True) as process:
        try:
            out, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            # The process and its children print where each of their threads is.
            native = native_stacks(process.pid)
            os.killpg(process.pid, signal.SIGUSR1)
            time.sleep(1)
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("\n".join(("it did not end:", native, *process.communicate())))
    # What MLX and Python print when a thread is torn down in the middle of something.
    for sign in ("terminate called", "Fatal Python error", "Exception ignored", "There is no Stream"):
        assert sign not in errors
    return process.returncode, out.splitlines(), errors


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells")
def test_a_process_that_hangs_reports_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.engine.test_exit.SECONDS", 6)
    with pytest.raises(pytest.fail.Exception, match=r"(?s)thread \d+, \w+, call \d+: .*libc.so.*line 12 in <module>"):
        run("signal.pause()")


def test_an_engine_that_was_used_and_never_closed() -> None:
    status, lines, errors = run('print(engine.embed_query("used").shape)')
    assert (status, lines) == (0, ["(384,)"])
    assert "Traceback" not in errors


def test_a_thread_that_python_joins_gets_its_vectors() -> None:
    program = """
encoder = WatchedEncoder(engine)
with encoder.held():
    threading.Thread(target=lambda: print(engine.embed_documents(MANY[:100]).shape)).start()
    encoder.begun()
"""
    status, lines, errors = run(program)
    assert (status, lines) == (0, ["(100, 384)"])
    assert "Traceback" not in errors


def test_a_daemon_thread_gets_an_error_and_does_not_delay_the_exit() -> None:
    program = """
import atexit
from mlx_qwen_embeddings.engine.worker import _close_all

told = threading.Event()
atexit.register(lambda: print(told.wait(20)))
atexit.unregister(_close_all)
atexit.register(_close_all)  # the last one runs first

def embed():
    try:
        engine.embed_documents(MANY)
    except Exception as error:
        print(type(error).__name__)
        told.set()

encoder = WatchedEncoder(engine)
with encoder.held():
    threading.Thread(target=embed, daemon=True).start()
    encoder.begun()
"""
    status, lines, errors = run(program)
    assert (status, lines) == (0, ["EngineClosedError", "True"])
    assert "Traceback" not in errors


def test_async_calls_that_wait_for_room_do_not_delay_the_exit() -> None:
    program = """
import asyncio, atexit
from tests.support.fake_encoder import wait_for_waiting

small = EmbeddingEngine("nano", cache_bytes=0, queue_tokens=1)
encoder = WatchedEncoder(small)

async def many():
    await asyncio.gather(*(small.aembed_query(f"text {number}") for number in range(5)))

held = encoder.held()
held.__enter__()  # for ever: only closing the engine ends the calls after the first
threading.Thread(target=lambda: asyncio.run(many()), daemon=True).start()
encoder.begun()
wait_for_waiting(small._model.worker, 4)
soon = threading.Timer(1.0, encoder._let_go.release)  # the exit waits for the batch being computed
soon.daemon = True
atexit.register(lambda: print(len(encoder.batches)))  # before the engine is closed: were others admitted meanwhile?
soon.start()
"""
    status, lines, _ = run(program)
    assert (status, lines) == (0, ["1"])


def test_the_exit_waits_for_a_slow_batch_and_says_so() -> None:
    # If MLX is torn down in the middle of a batch, a signal ends the process.
    program = """
import logging
from mlx_qwen_embeddings.engine import worker

class Told(logging.Handler):
    def emit(self, record):
        if "being computed" in record.getMessage():
            print(record.getMessage())
            encoder._held = False
            encoder._let_go.release()

worker.JOIN_SECONDS = 0.2
logging.getLogger("mlx_qwen_embeddings.engine.worker").addHandler(Told())
encoder = WatchedEncoder(engine)
encoder._held = True
threading.Thread(target=engine.embed_query, args=("daemon",), daemon=True).start()
encoder.begun()
sys.exit(5)
"""
    status, lines, _ = run(program)
    assert status == 5
    assert lines == ["the interpreter exits as soon as the batch being computed has ended; so far it has waited 0 s"]


def test_sys_exit_while_a_call_is_awaited() -> None:
    program = """
async def main():
    encoder = WatchedEncoder(engine)
    with encoder.held():
        task = asyncio.create_task(engine.aembed_documents(MANY))
        await asyncio.to_thread(encoder.begun)
    sys.exit(7)

asyncio.run(main())
"""
    status, lines, errors = run(program)
    assert (status, lines) == (7, [])
    assert "Traceback" not in errors


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="a GPU context does not survive a fork")
def test_an_exception_while_a_stream_is_open_in_the_parent_of_a_fork() -> None:
    program = """
import os
stream = engine.stream_documents(MANY, block_size=4)
print(next(stream).shape, flush=True)
if (child := os.fork()) == 0:
    print(engine.embed_query("in the child").shape)
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
raise ValueError("the user's own")
"""
    status, lines, errors = run(program)
    assert (status, lines) == (1, ["(4, 384)", "(384,)", "3"])
    assert errors.strip().endswith("ValueError: the user's own")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone can skip exit handlers")
@pytest.mark.skipif(mx.is_available(mx.gpu), reason="a GPU context does not survive a fork")
def test_a_forked_child_ends_without_the_exit_handlers_of_the_parents_libraries() -> None:
    program = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.strdup.restype = ctypes.c_void_p
libc.__cxa_atexit(libc.puts, ctypes.c_void_p(libc.strdup(b"a handler of C")), None)
engine.embed_query("in the parent")
if (child := os.fork()) == 0:
    print(engine.embed_query("in the child").shape, flush=True)
    libc.puts(b"output of C")
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
    status, lines, errors = run(program)
    assert (status, lines) == (0, ["(384,)", "output of C", "3", "a handler of C"])
    assert "Traceback" not in errors  # older tokenizers warn of a fork


def test_ctrl_c_ends_the_call_and_the_next_one_works() -> None:
    program = """
encoder = WatchedEncoder(engine)

def interrupt():
    encoder.begun()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

threading.Thread(target=interrupt).start()
with encoder.held():
    try:
        engine.embed_documents(MANY)
    except KeyboardInterrupt:
        print("interrupted", engine.stats().queued_requests)
print(engine.embed_query("next").shape, len(encoder.batches))
"""
    assert run(program)[:2] == (0, ["interrupted 0", "(384,) 2"])


def test_the_exit_waits_for_a_computing_thread_that_no_worker_knows() -> None:
    program = """
from mlx_qwen_embeddings.compute.mlx import threads
begun = threading.Event()

def work():
    import mlx.core as mx
    for _ in range(300):
        mx.eval(mx.ones((256, 256)) @ mx.ones((256, 256)))
        begun.set()
    print("done")

threads.start(work, "unknown to any worker")
begun.wait(20)
"""
    status, lines, errors = run(program)
    assert (status, lines, errors) == (0, ["done"], "")
