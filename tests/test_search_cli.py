"""``mlx-qwen index`` and ``search``: what is found where, what is embedded again, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlx_qwen_embeddings.cli import search as module
from mlx_qwen_embeddings.cli.app import app
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.search import Hit
from mlx_qwen_embeddings.search.passages import Splitter
from mlx_qwen_embeddings.search.store import RECORD

COOKING = "# Cooking\n\nBrown the beef, add the stock, and let the pot simmer for three hours.\n"
BIRDS = "# Birds\n\nSwallows leave for Africa in autumn, when insects grow scarce.\n"
CODE = 'import os\n\n\ndef read_password(path):\n    """Read a password from a file."""\n    return open(path).read()\n'


def run(command: str, *arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [command, *map(str, arguments)], prog_name="mlx-qwen")
    return result.exit_code, result.stdout, result.stderr


def index(folder: Path, *arguments: object) -> tuple[int, str, str]:
    return run("index", folder, "--db", folder.parent / "db", "-m", "nano", *arguments)


def search(question: str, folder: Path, *arguments: object) -> Any:
    status, out, err = run("search", question, "--db", folder.parent / "db", "--json", *arguments)
    assert (status, err) == (0, "")
    return json.loads(out)


def pdf(*pages: str) -> bytes:
    """Give a PDF with a line of text a page."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] {resources} /Contents {5 + 2 * number} 0 R >>"
        )
        stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    content, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    tail = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(content)}\n%%EOF\n"
    return content + head.encode() + tail.encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "more").mkdir(parents=True)
    (folder / "cooking.md").write_text(COOKING, "utf-8")
    (folder / "more" / "bird's.md").write_text(BIRDS, "utf-8")
    (folder / "tool.py").write_text(CODE, "utf-8")
    (folder / "lease.pdf").write_bytes(pdf("The rent is due in May.", "The landlord has to give notice in writing."))
    (folder / ".hidden.md").write_text("hidden", "utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "empty.txt").touch()
    return folder


def test_what_is_found_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = folder.parent / "db"
    done = f"5 files, 4 new or changed, 0 gone; 5 passages embedded, 5 in {database}\n"
    assert index(folder) == (0, done, "")
    best = search("What can I cook for dinner?", folder)[0]
    assert (best["file"], best["start_line"], best["end_line"]) == (str(folder / "cooking.md"), 1, 3)
    assert best["text"] == COOKING.strip()
    embeddings = MLXQwenEmbeddings("nano")
    question = embeddings.embed_query("What can I cook for dinner?")
    passage = embeddings.embed_documents([COOKING.strip()])[0]
    assert best["score"] == pytest.approx(sum(a * b for a, b in zip(question, passage, strict=True)), abs=1e-5)
    best = search("Who tells the tenant?", folder, "-k", 1)
    assert [(hit["file"], hit["page"]) for hit in best] == [(str(folder / "lease.pdf"), 2)]
    monkeypatch.chdir(folder)
    status, out, err = run("search", "secret credentials", "--db", database, "-k", 1)
    head, *passage_lines = out.splitlines()
    assert (status, err) == (0, "")
    assert head.split()[1] == "tool.py:1-6"
    assert passage_lines[3] == "    def read_password(path):"


def test_a_piece_of_code_is_shown_as_it_is_indented(folder: Path) -> None:
    methods = "\n\n".join(f"    def stew_{number}(self):\n\tpot = self.pot\n\treturn pot" for number in range(4))
    (folder / "tool.py").write_text(f"class Kitchen:\n{methods}\n", "utf-8")
    index(folder, "--glob", "*.py", "--chunk-tokens", 28, "--overlap", 0)
    hits = search("how to make a stew", folder, "-k", 9)
    lines = (folder / "tool.py").read_text("utf-8").splitlines()
    assert {hit["indent"] for hit in hits} == {0, 4}
    for hit in hits:
        first = lines[hit["start_line"] - 1].expandtabs(4)
        assert first == " " * hit["indent"] + hit["text"].splitlines()[0].expandtabs(4)
    shown = Hit(0.5, "/a.py", 2, 4, 0, 4, "def stew(self):\n\tpot = 1\n        return pot")
    lines = ["0.500  /a.py:2-4", "    def stew(self):", "    pot = 1", "        return pot"]
    assert module._shown(shown).splitlines() == lines


def test_only_what_changed_is_embedded_again(folder: Path) -> None:
    database = folder.parent / "db"
    assert "5 passages embedded" in index(folder)[1]
    assert index(folder)[1] == f"5 files, 0 new or changed, 0 gone; 0 passages embedded, 5 in {database}\n"
    (folder / "more" / "bird's.md").unlink()
    (folder / "copy.md").write_text(COOKING, "utf-8")
    (folder / "tool.py").write_text(CODE.replace("password", "secret"), "utf-8")
    assert index(folder)[1] == f"5 files, 2 new or changed, 1 gone; 2 passages embedded, 5 in {database}\n"
    assert "bird" not in str(search("Where do swallows go?", folder))
    assert "read_secret" in search("read a secret", folder)[0]["text"]


def test_passages_of_a_long_file_keep_their_vectors(folder: Path) -> None:
    parts = [f"def function_{number}():\n    return {number} + {number}\n" for number in range(12)]
    (folder / "long.py").write_text("\n\n".join(parts), "utf-8")
    index(folder, "--chunk-tokens", 30, "--overlap", 0)
    before = {hit["text"] for hit in search("function", folder, "-k", 100) if hit["file"].endswith("long.py")}
    assert len(before) > 3
    (folder / "long.py").write_text("\n\n".join([*parts[:-1], "def last():\n    return None\n"]), "utf-8")
    assert "1 new or changed, 0 gone; 1 passages embedded" in index(folder, "--chunk-tokens", 30, "--overlap", 0)[1]


def test_lines_are_those_of_the_file(folder: Path) -> None:
    text = "".join(f"Line {number} says something of its own.\n" if number % 9 else "\n" for number in range(1, 200))
    (folder / "long.txt").write_text(text, "utf-8")
    engine = MLXQwenEmbeddings("nano").engine
    passages = Splitter(lambda piece: engine.count_tokens([piece])[0], 64, 16).split(folder / "long.txt")
    lines = text.splitlines()
    assert len(passages) > 10
    for passage in passages:
        assert engine.count_tokens([passage.text])[0] <= 64
        assert "\n".join(lines[passage.start_line - 1 : passage.end_line]) == passage.text
    found = {number for passage in passages for number in range(passage.start_line, passage.end_line + 1)}
    assert {number for number, line in enumerate(lines, 1) if line} <= found


def test_a_pattern_and_a_limit(folder: Path) -> None:
    assert index(folder, "--glob", "*.md")[1].startswith("2 files, 2 new")
    # In the order of names: cooking.md, empty.txt, lease.pdf.
    assert index(folder, "--limit", 3)[1].startswith("3 files, 1 new or changed, 0 gone; 2 passages")
    assert index(folder / "tool.py")[1].startswith("1 files, 1 new")


def test_what_cannot_be_read_is_left_out_and_said(folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"\xff\xfe")
    (folder / "bad.pdf").write_bytes(b"no PDF")
    status, out, err = index(folder)
    assert (status, out.split(",")[0]) == (0, "7 files")
    named = [line.split(": ")[2].split()[0] for line in err.splitlines()]
    assert named == [str(folder / "bad.pdf"), str(folder / "bad.txt")]
    assert "4 new or changed" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--dimensions", 64), "dimensions 384, not 64"),
        (("--instruction", "Find it"), "instruction None, not 'Find it'"),
        (("--chunk-tokens", 64), "chunk_tokens 256, not 64"),
    ],
)
def test_a_database_made_otherwise_is_refused(folder: Path, arguments: tuple[object, ...], expected: str) -> None:
    index(folder)
    status, out, err = index(folder, *arguments)
    message = f"mlx-qwen: {folder.parent / 'db'} was made with {expected}: use the same, or another --db\n"
    assert (status, out, err) == (1, "", message)


def test_a_model_that_is_another_now_is_refused(folder: Path) -> None:
    model = shutil.copytree(NANO_FOLDER, folder.parent / "model")
    run("index", folder, "--db", folder.parent / "db", "-m", model)
    config = model / "config_sentence_transformers.json"
    config.write_text(json.dumps({"prompts": {"query": "find: ", "document": ""}}), "utf-8")
    from mlx_qwen_embeddings import get_engine

    get_engine(str(model)).close()
    for command in (("search", "a"), ("index", folder, "-m", model)):
        status, out, err = run(*command, "--db", folder.parent / "db")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert f"was made with the model {str(model)!r} of another content" in err
    # It is the content that counts: the package's own copy is what it was made with.
    assert run("search", "a", "--db", folder.parent / "db", "-m", "nano")[0] == 0


def test_the_record_says_how_it_was_made(folder: Path) -> None:
    index(folder, "--dimensions", 64, "--instruction", "Find it")
    record = json.loads((folder.parent / "db" / RECORD).read_text("utf-8"))
    assert record.pop("fingerprint")
    assert record == {
        "version": 1,
        "model": "nano",
        "revision": None,
        "dimensions": 64,
        "instruction": "Find it",
        "chunk_tokens": 256,
        "overlap": 32,
    }
    hit = search("birds", folder, "-k", 1)[0]
    embeddings = MLXQwenEmbeddings("nano", dimensions=64, query_instruction="Find it")
    pairs = zip(embeddings.embed_query("birds"), embeddings.embed_documents([hit["text"]])[0], strict=True)
    assert hit["score"] == pytest.approx(sum(a * b for a, b in pairs), abs=1e-5)


def test_what_is_not_there(tmp_path: Path) -> None:
    database = tmp_path / "db"
    missing = f"mlx-qwen: there is no index in {database}: make it with mlx-qwen index FOLDER --db {database}\n"
    assert run("search", "a", "--db", database) == (1, "", missing)
    status, _, err = run("index", tmp_path / "none", "--db", database, "-m", "nano")
    assert (status, err) == (1, f"mlx-qwen: there is no folder or file {tmp_path / 'none'}\n")
    assert not database.exists()


@pytest.mark.parametrize("arguments", [("index", "."), ("search", "a"), ("search", "--db", "db")])
def test_wrong_usage_exits_2(arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert f"Usage: mlx-qwen {arguments[0]}" in err
