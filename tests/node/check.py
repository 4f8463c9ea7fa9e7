"""Start a server, write down the vectors it should return, and test it with OpenAI's client for Node.

Usage: ``python tests/node/check.py`` after ``npm ci`` in its folder; ``make test-node`` does both.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TEXTS = ["Tides follow the moon.", "The cat sleeps.", "Où est la gare ? 駅はどこですか。"]


def main() -> int:
    """Run the tests, and return their exit status."""
    sys.path.insert(0, str(FOLDER.parents[1]))
    from mlx_qwen_embeddings import EmbeddingEngine
    from tests.support.server_process import serving

    with EmbeddingEngine("nano") as engine:
        expected = {
            "texts": TEXTS,
            "documents": engine.embed_documents(TEXTS).tolist(),
            "shorter": engine.embed_documents(TEXTS, dimensions=64).tolist(),
            "query": engine.embed_query(TEXTS[0], instruction="Find it").tolist(),
            "tokens": sum(engine.count_tokens(TEXTS)),
        }
    with serving() as server, tempfile.TemporaryDirectory() as place:
        path = Path(place) / "expected.json"
        path.write_text(json.dumps(expected | {"url": server.url}), "utf-8")
        command = ["node", "--test", "client.test.js"]
        return subprocess.run(command, cwd=FOLDER, env=os.environ | {"EXPECTED": str(path)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
