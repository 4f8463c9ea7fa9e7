"""A server that loads the application and then forks its workers, as gunicorn does with --preload."""

import json
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from tests.support.same_vectors import TEXTS, assert_same

pytestmark = pytest.mark.heavy

if not hasattr(os, "fork") or mx.is_available(mx.gpu):
    pytest.skip("this system does not fork, or MLX holds a GPU context, which does not survive it", allow_module_level=True)

PROGRAM = """
import asyncio, json, os, signal, sys, threading
from mlx_qwen_embeddings import get_engine

when, texts = json.loads(sys.argv[1])
engine = get_engine("nano", cache_bytes=0)
if when != "imported":
    engine.warmup()
if when == "busy":  # the parent itself embeds while it forks
    threading.Thread(target=lambda: [engine.embed_documents(texts) for _ in range(20)]).start()

def work(sender):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    async def serve():
        calls = [engine.aembed_documents(texts), *(engine.aembed_query(text) for text in texts)]
        return await asyncio.gather(*calls)
    documents, *queries = asyncio.run(serve())
    os.write(sender, json.dumps([documents.tolist(), [query.tolist() for query in queries]]).encode())
    os.close(sender)
    signal.pause()

workers = []
for _ in range(3):
    receiver, sender = os.pipe()
    if (worker := os.fork()) == 0:
        os.close(receiver)
        work(sender)
    os.close(sender)
    workers.append((worker, receiver))
found = []
for worker, receiver in workers:
    with os.fdopen(receiver) as pipe:
        found.append(json.loads(pipe.read()))
for worker, _ in workers:
    os.kill(worker, signal.SIGTERM)
ended = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker, _ in workers]
print(json.dumps({"workers": found, "ended": ended, "parent": engine.embed_documents(texts).tolist()}))
"""


@pytest.mark.parametrize("when", ["imported", "loaded", "busy"])
def test_each_worker_gives_the_right_vectors_and_ends_well(when: str) -> None:
    with EmbeddingEngine("nano") as engine:
        wanted = engine.embed_documents(TEXTS)
    command = [sys.executable, "-c", PROGRAM, json.dumps([when, TEXTS])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ended"] == [0, 0, 0]
    assert_same(np.array(found["parent"]), wanted)
    for documents, queries in found["workers"]:
        assert_same(np.array(documents), wanted)
        assert_same(np.array(queries), wanted)  # nano's own prompt for queries is empty
