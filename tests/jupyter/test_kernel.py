"""Test in a real IPython kernel: calls under its event loop, progress bars as widgets, and engines that survive Ctrl-C."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

SECONDS = 60


@dataclass
class Ran:
    """The output of a cell."""

    error: str = ""
    printed: str = ""
    shown: list[dict[str, Any]] = field(default_factory=list)


class Notebook:
    """Runs cells in one kernel, one after the other."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def run(self, code: str, *, interrupt_at: str | None = None) -> Ran:
        """Run a cell. Send Ctrl-C once it has printed ``interrupt_at``."""
        ran = Ran()
        request = self.client.execute(code)
        while True:
            message = self.client.get_iopub_msg(timeout=SECONDS)
            kind, content = message["msg_type"], message["content"]
            # The output of a thread has no parent while a cell awaits.
            if message["parent_header"].get("msg_id", request) != request and kind != "stream":
                continue
            if kind == "stream" and content["name"] == "stdout":
                ran.printed += content["text"]
                if interrupt_at is not None and interrupt_at in ran.printed:
                    interrupt_at = None
                    self.manager.interrupt_kernel()
            elif kind in {"display_data", "execute_result"}:
                ran.shown.append(content["data"])
            elif kind == "error":
                ran.error = content["ename"]
            elif kind == "status" and content["execution_state"] == "idle":
                return ran


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    manager = KernelManager(kernel_name="python3")
    assert manager.kernel_spec is not None
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel(env=os.environ | {"HF_HUB_OFFLINE": "1", "JPY_PARENT_PID": str(os.getpid())})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=SECONDS)
        book = Notebook(manager, client)
        assert book.run(SETUP).error == ""
        yield book
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


SETUP = """
import threading
from mlx_qwen_embeddings import EmbeddingEngine
engine = EmbeddingEngine("nano", cache_bytes=0)
words = "with a number of words that take the model some time to read " * 12
long = [f"text {number} {words}" for number in range(20_000)]

def say_when_running(engine):
    before = engine.stats().batches
    def look():
        while engine.stats().batches < before + 2:
            threading.Event().wait(0.01)
        print("running", flush=True)
    threading.Thread(target=look, daemon=True).start()
"""

USABLE = """
stats = engine.stats()
vector = engine.embed_query("Is it usable?")
with EmbeddingEngine("nano") as other:
    print(abs(vector - other.embed_query("Is it usable?")).max() < 1e-5, vector.shape, engine.stats().queued_tokens)
"""


def test_calls_and_awaited_calls_under_the_running_loop(notebook: Notebook) -> None:
    ran = notebook.run("import asyncio; asyncio.get_running_loop(); print(engine.embed_documents(['a', 'b']).shape)")
    assert (ran.error, ran.printed) == ("", "(2, 384)\n")
    ran = notebook.run("print((await engine.aembed_documents(['a', 'b'])).shape, (await engine.aembed_query('c')).shape)")
    assert (ran.error, ran.printed) == ("", "(2, 384) (384,)\n")


def test_adapters_under_the_running_loop(notebook: Notebook) -> None:
    ran = notebook.run(
        "from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings\n"
        "from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding\n"
        "a, b = MLXQwenEmbeddings(model='nano'), MLXQwenEmbedding(model_name='nano')\n"
        "vectors = [a.embed_query('x'), await a.aembed_query('x')]\n"
        "vectors += [b.get_query_embedding('x'), await b.aget_query_embedding('x')]\n"
        "print([len(vector) for vector in vectors])"
    )
    assert (ran.error, ran.printed) == ("", "[384, 384, 384, 384]\n")


def test_a_progress_bar_is_a_widget(notebook: Notebook) -> None:
    ran = notebook.run("vectors = engine.embed_documents(['one', 'two', 'three'], show_progress=True)")
    assert ran.error == ""
    assert ["application/vnd.jupyter.widget-view+json" in shown for shown in ran.shown] == [True]


def test_an_engine_is_shown_as_a_table(notebook: Notebook) -> None:
    ran = notebook.run("engine.embed_query('a')\nengine")
    assert "<td" in ran.shown[0]["text/html"]
    assert "loaded" in ran.shown[0]["text/html"]
    assert "<table>" in notebook.run("engine.stats()").shown[0]["text/html"]


def test_a_map_is_shown_as_a_picture(notebook: Notebook) -> None:
    code = "from mlx_qwen_embeddings.plot import embedding_map\nembedding_map([[0, 0], [1, 2]], texts=['one', 'two'])"
    for before in ("", "%matplotlib inline\n"):
        (shown,) = notebook.run(before + code).shown
        assert len(shown["image/png"]) > 1000


@pytest.mark.parametrize(
    "call",
    [
        "engine.embed_documents(long)",
        "engine.embed_documents(long, show_progress=True)",
        "await engine.aembed_documents(long)",
        "await engine.aembed_documents(long, show_progress=True)",
        "for block in engine.stream_documents(iter(long), block_size=256): pass",
    ],
)
def test_ctrl_c_leaves_a_usable_engine(notebook: Notebook, call: str) -> None:
    ran = notebook.run(f"say_when_running(engine)\n{call}\nprint('to the end')", interrupt_at="running")
    assert ran.error in {"KeyboardInterrupt", "CancelledError"}
    assert "to the end" not in ran.printed
    ran = notebook.run(USABLE)
    assert (ran.error, ran.printed) == ("", "True (384,) 0\n")


def test_ctrl_c_while_a_file_is_embedded_keeps_finished_parts(notebook: Notebook) -> None:
    ran = notebook.run(
        "import tempfile, pathlib\n"
        "from mlx_qwen_embeddings.bulk import embed_file\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "_ = (folder / 'in.txt').write_text('\\n'.join(long[:160]))\n"
        "parts = folder / 'out.npy.parts'\n"
        "def look():\n"
        "    while not list(parts.glob('part-*.npy')):\n"
        "        threading.Event().wait(0.01)\n"
        "    print('running', flush=True)\n"
        "threading.Thread(target=look, daemon=True).start()\n"
        "embed_file(folder / 'in.txt', folder / 'out.npy', model=engine, part_rows=16)",
        interrupt_at="running",
    )
    assert ran.error == "KeyboardInterrupt"
    ran = notebook.run(
        "report = embed_file(folder / 'in.txt', folder / 'out.npy', model=engine, part_rows=16)\n"
        "print(report.rows, report.resumed >= 16)"
    )
    assert (ran.error, ran.printed) == ("", "160 True\n")


def test_ctrl_c_while_the_model_is_loaded(notebook: Notebook) -> None:
    ran = notebook.run(
        "before, engine, go = engine, EmbeddingEngine('nano'), threading.Event()\n"
        "worker = engine._model.worker\n"
        "load = worker._open_encoder\n"
        "def slowly():\n"
        "    print('running', flush=True)\n"
        "    go.wait(60)\n"
        "    return load()\n"
        "worker._open_encoder = slowly\n"
        "engine.embed_query('a')",
        interrupt_at="running",
    )
    assert ran.error == "KeyboardInterrupt"
    ran = notebook.run("go.set()" + USABLE + "engine.close()\nengine = before")
    assert (ran.error, ran.printed) == ("", "True (384,) 0\n")
