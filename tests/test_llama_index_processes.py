"""``MLXQwenEmbedding`` in a pipeline's worker processes: spawned by ``run``, forked by ``arun`` on Linux.

Each program runs in a process group of its own, which is killed as a whole if it takes too long: nothing can hang.
"""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings import get_engine

pytestmark = pytest.mark.heavy

PASSAGES = [f"Passage {number} tells of {topic}." for number, topic in enumerate(["cats", "money", "bread", "stars"] * 3)]
OPTIONS = {"dimensions": 64, "document_instruction": "Read the passage"}

PROGRAM = """
import asyncio, json, multiprocessing, sys
from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding

# The workers are two, also where there is one processor: LlamaIndex would cut their number down.
multiprocessing.cpu_count = lambda: 2

def main():
    how, warm, passages, options = json.loads(sys.argv[1])
    model = MLXQwenEmbedding("nano", **options)
    if warm:
        model.get_text_embedding("loaded before the workers start")
    before = model.engine.stats().texts
    pipeline = IngestionPipeline(transformations=[model])
    documents = [Document(text=text) for text in passages]
    if how == "run":
        nodes = pipeline.run(documents=documents, num_workers=2)
    else:
        nodes = asyncio.run(pipeline.arun(documents=documents, num_workers=2))
    here = model.engine.stats().texts - before
    after = model.get_text_embedding(passages[0])
    print(json.dumps({"texts": [node.text for node in nodes], "vectors": [node.embedding for node in nodes],
                      "embedded_here": here, "after": after}))

if __name__ == "__main__":
    main()
"""


def run_pipeline(how: str, *, warm: bool) -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM, json.dumps([how, warm, PASSAGES, OPTIONS])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, err = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, err
    return dict(json.loads(out))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="process groups and forks are POSIX")
@pytest.mark.parametrize(("how", "warm"), [("run", True), ("arun", True), ("arun", False)])
def test_worker_processes_return_the_vectors_of_this_process(how: str, *, warm: bool) -> None:
    found = run_pipeline(how, warm=warm)
    wanted = get_engine("nano").embed_documents(PASSAGES, dimensions=64, instruction="Read the passage")
    assert found["texts"] == PASSAGES
    np.testing.assert_allclose(found["vectors"], wanted, atol=1e-5)
    np.testing.assert_allclose(found["after"], wanted[0], atol=1e-5)
    assert found["embedded_here"] == 0  # else the workers did nothing
