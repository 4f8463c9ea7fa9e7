"""Test ``mlx-qwen index`` and ``search``: what is found, what is embedded again, and what is refused."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mlx_qwen_embeddings._files import file_digest
from mlx_qwen_embeddings.cli import search as module
from mlx_qwen_embeddings.cli.app import app
from mlx_qwen_embeddings.engine import shared
from mlx_qwen_embeddings.errors import IndexMismatchError
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.search import Hit, embeddings_for, index_folder, search_folder
from mlx_qwen_embeddings.search import index as indexing
from mlx_qwen_embeddings.search import passages as files
from mlx_qwen_embeddings.search.database import RECORD
from mlx_qwen_embeddings.search.passages import Splitter
from tests.support.power_cut import watched_renames

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


def pdf(*pages: str, more: str = "") -> bytes:
    """Return a PDF with one line of text per page, and ``more`` in its trailer."""
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
    tail = f"trailer << /Size {len(objects) + 1} /Root 1 0 R {more} >>\nstartxref\n{len(content)}\n%%EOF\n"
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


def test_a_question_finds_its_passage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = folder.parent / "db"
    done = f"5 files, 4 new or changed, 0 removed; 5 passages embedded, 5 in {database}\n"
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


def test_code_is_shown_with_its_indentation(folder: Path) -> None:
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


def test_only_changes_are_embedded_again(folder: Path) -> None:
    database = folder.parent / "db"
    assert "5 passages embedded" in index(folder)[1]
    assert index(folder)[1] == f"5 files, 0 new or changed, 0 removed; 0 passages embedded, 5 in {database}\n"
    (folder / "more" / "bird's.md").unlink()
    (folder / "copy.md").write_text(COOKING, "utf-8")
    (folder / "tool.py").write_text(CODE.replace("password", "secret"), "utf-8")
    assert index(folder)[1] == f"5 files, 2 new or changed, 1 removed; 2 passages embedded, 5 in {database}\n"
    assert "bird" not in str(search("Where do swallows go?", folder))
    assert "read_secret" in search("read a secret", folder)[0]["text"]


def test_passages_of_a_long_file_keep_their_vectors(folder: Path) -> None:
    parts = [f"def function_{number}():\n    return {number} + {number}\n" for number in range(12)]
    (folder / "long.py").write_text("\n\n".join(parts), "utf-8")
    index(folder, "--chunk-tokens", 30, "--overlap", 0)
    before = {hit["text"] for hit in search("function", folder, "-k", 100) if hit["file"].endswith("long.py")}
    assert len(before) > 3
    (folder / "long.py").write_text("\n\n".join([*parts[:-1], "def last():\n    return None\n"]), "utf-8")
    assert "1 new or changed, 0 removed; 1 passages embedded" in index(folder, "--chunk-tokens", 30, "--overlap", 0)[1]


def test_line_numbers_are_those_of_the_file(folder: Path) -> None:
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


@pytest.mark.parametrize("text", ["tide " * 600, "潮は月に従う。" * 80, '{"tide":1,"moon":[2,3]},' * 60])
def test_passages_of_one_long_line_are_filled(folder: Path, text: str) -> None:
    (folder / "line.txt").write_text(text, "utf-8")
    engine = MLXQwenEmbeddings("nano").engine
    index(folder, "--glob", "line.txt", "--chunk-tokens", 64, "--overlap", 8)
    found = {hit["text"] for hit in search("tide", folder, "-k", 100)}
    tokens = engine.count_tokens(sorted(found))
    assert max(tokens) <= 64
    assert np.median(tokens) > 40


def test_a_pattern_and_a_limit(folder: Path) -> None:
    assert index(folder, "--glob", "*.md")[1].startswith("2 files, 2 new")
    # In the order of names: cooking.md, empty.txt, lease.pdf.
    assert index(folder, "--limit", 3)[1].startswith("3 files, 1 new or changed, 0 removed; 2 passages")
    assert index(folder / "tool.py")[1].startswith("1 files, 1 new")


def test_unreadable_files_are_skipped_with_the_reason(folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"\xff\xfe")
    (folder / "bad.pdf").write_bytes(b"no PDF")
    status, out, err = index(folder)
    assert (status, out.split(",")[0]) == (0, "7 files")
    named = [line.split(": ")[2].split()[0] for line in err.splitlines()]
    assert named == [str(folder / "bad.pdf"), str(folder / "bad.txt")]
    assert "4 new or changed" in out


def test_an_encrypted_pdf_is_skipped_with_the_reason(folder: Path) -> None:
    key = "00" * 48
    aes = f"/Filter /Standard /V 5 /R 6 /Length 256 /P -4 /O <{key}> /U <{key}> /OE <{key[:64]}> /UE <{key[:64]}>"
    cipher = "/CF << /StdCF << /CFM /AESV3 /Length 32 >> >> /StmF /StdCF /StrF /StdCF"
    (folder / "aes.pdf").write_bytes(pdf("secret", more=f"/Encrypt << {aes} {cipher} >>"))
    (folder / "vendor.pdf").write_bytes(pdf("secret", more="/Encrypt << /Filter /Vendor /V 1 >>"))
    status, out, err = index(folder)
    assert (status, out.split(";")[0]) == (0, "7 files, 4 new or changed, 0 removed")
    said = [line.removeprefix("mlx-qwen: left out: ").split(": ") for line in err.splitlines()]
    assert [place for place, _ in said] == [f"{folder / name} cannot be read as PDF" for name in ("aes.pdf", "vendor.pdf")]
    assert all(reason for _, reason in said)


def unreadable(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make reading files of these names fail as on a broken disk, with no name in the error."""

    def fail(path: Path) -> str:
        if path.name in names:
            raise OSError(errno.EIO, "Input/output error")
        return file_digest(path)

    monkeypatch.setattr(indexing, "file_digest", fail)


def test_a_file_that_cannot_be_opened_is_skipped_with_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unreadable(monkeypatch, "cooking.md")
    status, out, err = index(folder)
    assert (status, out.split(";")[0]) == (0, "5 files, 3 new or changed, 0 removed")
    assert err == f"mlx-qwen: left out: {folder / 'cooking.md'} cannot be read: Input/output error\n"


def test_a_file_whose_status_cannot_be_read_is_skipped_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(folder)
    place, stat = folder / "more" / "bird's.md", Path.stat

    def refuse(path: Path, **options: Any) -> Any:
        if path.name == "bird's.md":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    unreadable(monkeypatch, "bird's.md")
    assert place in files.find_files(folder, None, None)
    status, out, err = index(folder)
    assert (status, out.split(";")[0]) == (0, "5 files, 0 new or changed, 0 removed")
    assert err == f"mlx-qwen: left out: {place} cannot be read: Input/output error\n"
    shutil.rmtree(folder / "more")
    assert "0 removed" in index(folder)[1]  # the database no longer had it


@pytest.mark.parametrize("how", ["no text", "no file"])
def test_a_file_that_became_unreadable_is_no_longer_found(folder: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index(folder)
    assert "Brown the beef" in str(search("What can I cook?", folder, "-k", 9))
    if how == "no text":
        (folder / "cooking.md").write_bytes(b"\xff\xfe")
    else:
        unreadable(monkeypatch, "cooking.md")
    status, out, err = index(folder)
    assert (status, err.count("\n")) == (0, 1)
    assert out == f"5 files, 0 new or changed, 0 removed; 0 passages embedded, 4 in {folder.parent / 'db'}\n"
    assert "Brown the beef" not in str(search("What can I cook?", folder, "-k", 9))
    monkeypatch.undo()
    (folder / "cooking.md").write_text(COOKING, "utf-8")
    assert "1 new or changed, 0 removed; 1 passages embedded" in index(folder)[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--dimensions", 64), "dimensions 384, not 64"),
        (("--instruction", "Find it"), "instruction None, not 'Find it'"),
        (("--chunk-tokens", 64), "chunk_tokens 256, not 64"),
    ],
)
def test_options_that_differ_from_the_databases_are_refused(
    folder: Path, arguments: tuple[object, ...], expected: str
) -> None:
    index(folder)
    status, out, err = index(folder, *arguments)
    message = f"mlx-qwen: {folder.parent / 'db'} was made with {expected}: use the same, or another --db\n"
    assert (status, out, err) == (1, "", message)


def test_a_model_whose_content_changed_is_refused(folder: Path) -> None:
    model = shutil.copytree(NANO_FOLDER, folder.parent / "model")
    run("index", folder, "--db", folder.parent / "db", "-m", model)
    config = model / "config_sentence_transformers.json"
    config.write_text(json.dumps({"prompts": {"query": "find: ", "document": ""}}), "utf-8")
    from mlx_qwen_embeddings import get_engine

    get_engine(str(model)).close()
    for command in (("search", "a"), ("index", folder, "-m", model)):
        status, out, err = run(*command, "--db", folder.parent / "db")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert f"was made with the model {str(model)!r}, whose files were different then" in err
    # Only the content matters: the package's own copy still has it.
    assert run("search", "a", "--db", folder.parent / "db", "-m", "nano")[0] == 0


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder for models, no Hub, and shared engines of this test alone. Return the folder."""
    monkeypatch.setattr(shared, "_engines", {})
    monkeypatch.setenv("MLX_QWEN_OFFLINE", "1")
    monkeypatch.setenv("MLX_QWEN_CACHE_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


def pretend(database: Path, **fields: object) -> None:
    """Change fields in the record of a database."""
    record = json.loads((database / RECORD).read_text("utf-8"))
    (database / RECORD).write_text(json.dumps(record | fields), "utf-8")


@pytest.mark.parametrize("revision", [None, "a" * 40])
@pytest.mark.parametrize("model", ["nano", "medium"])
def test_another_model_is_refused_without_a_download(folder: Path, alone: Path, model: str, revision: str | None) -> None:
    index(folder)
    database = folder.parent / "db"
    pretend(database, model="small", revision=revision, dimensions=1024, fingerprint="0" * 32)
    expected = f"mlx-qwen: {database} was made with the model 'small', not {model!r}: use the same, or another --db\n"
    assert run("search", "a", "--db", database, "-m", model) == (1, "", expected)
    assert run("index", folder, "--db", database, "-m", model) == (1, "", expected)
    assert not alone.exists()


def test_no_hub_model_is_downloaded_for_the_database_of_a_local_model(folder: Path, alone: Path) -> None:
    index(folder)
    database = folder.parent / "db"
    expected = f"mlx-qwen: {database} was made with the model 'nano', not 'small': use the same, or another --db\n"
    assert run("search", "a", "--db", database, "-m", "small") == (1, "", expected)
    with pytest.raises(ValueError, match="'nano', not 'small'"):
        index_folder(folder, database, embeddings=MLXQwenEmbeddings("small"))
    pretend(database, model=str(folder.parent / "gone"))  # the folder that it was made with
    assert "gone', not 'small': use" in run("search", "a", "--db", database, "-m", "small")[2]
    assert run("search", "a", "--db", database, "-m", "nano")[0] == 0
    assert not alone.exists()


def test_a_database_keeps_the_commit_it_was_made_with(folder: Path, alone: Path) -> None:
    old, new, database = "b" * 40, "a" * 40, folder.parent / "db"
    repository = alone / "models--mlx-community--Qwen3-Embedding-0.6B-4bit-DWQ"
    for commit in (old, new):
        shutil.copytree(NANO_FOLDER, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    main = repository / "refs" / "main"
    main.write_text(old)
    assert run("index", folder, "--db", database, "-m", "small")[0] == 0
    assert json.loads((database / RECORD).read_text("utf-8"))["revision"] == old
    shared._engines.clear()
    main.write_text(new)
    assert search("Where do birds go?", folder, "-m", "0.6b", "-k", 1)[0]["file"].endswith("bird's.md")
    assert "0 new or changed" in run("index", folder, "--db", database, "-m", "small")[1]
    expected = f"mlx-qwen: {database} was made with the model 'small' at revision '{old}', not '{new}': "
    status, out, err = run("index", folder, "--db", database, "--revision", "main")
    assert (status, out, err) == (1, "", f"{expected}use the same, or another --db\n")


def test_options_default_to_those_of_the_database(folder: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = folder.parent / "db"
    index(folder, "--dimensions", 64, "--instruction", "Find it")
    (folder / "copy.md").write_text(BIRDS, "utf-8")
    monkeypatch.setenv("MLX_QWEN_MODEL", "medium")
    status, out, err = run("index", folder, "--db", database)
    assert (status, err) == (0, "")
    assert out.startswith("6 files, 1 new or changed, 0 removed; 1 passages embedded")
    embeddings = embeddings_for(database, show_progress=True)
    assert (embeddings.model, embeddings.dimensions, embeddings.query_instruction) == ("nano", 64, "Find it")
    assert embeddings_for(folder.parent / "new").model == "medium"
    assert not alone.exists()


@pytest.mark.parametrize("command", ["index", "search"])
def test_the_model_dir_option_is_used(folder: Path, alone: Path, command: str) -> None:
    index(folder)
    pretend(folder.parent / "db", model="small", revision="a" * 40)
    place = folder.parent / "other"
    argument = folder if command == "index" else "a"
    status, out, err = run(command, argument, "--db", folder.parent / "db", "--model-dir", place)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"looked in {place}/models--mlx-community--Qwen3-Embedding-0.6B-4bit-DWQ" in err
    assert not alone.exists()


def test_the_record_holds_the_model_and_the_options(folder: Path) -> None:
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
        "options": {},
    }
    hit = search("birds", folder, "-k", 1)[0]
    embeddings = MLXQwenEmbeddings("nano", dimensions=64, query_instruction="Find it")
    pairs = zip(embeddings.embed_query("birds"), embeddings.embed_documents([hit["text"]])[0], strict=True)
    assert hit["score"] == pytest.approx(sum(a * b for a, b in pairs), abs=1e-5)


def test_options_that_shape_vectors_are_recorded_and_used_again(folder: Path) -> None:
    database = folder.parent / "db"
    embeddings = MLXQwenEmbeddings("nano", pooling="mean", document_instruction="Read it", timeout=60)
    index_folder(folder, database, embeddings=embeddings)
    hit = search_folder("birds", database, count=1)[0]
    question, passage = np.array(embeddings.embed_query("birds")), np.array(embeddings.embed_documents([hit.text])[0])
    assert hit.score == pytest.approx(float(question @ passage), abs=1e-5)
    with pytest.raises(IndexMismatchError, match=r"was made with options \{.*'pooling': 'mean'"):
        index_folder(folder, database, embeddings=MLXQwenEmbeddings("nano"))


def test_a_question_is_embedded_as_a_query(folder: Path, prompted: str) -> None:
    run("index", folder, "--db", folder.parent / "db", "-m", prompted)
    hit = search("birds", folder, "-k", 1)[0]
    embeddings = MLXQwenEmbeddings(prompted)
    document = embeddings.embed_documents([hit["text"]])[0]
    as_query, as_document = np.array([embeddings.embed_query("birds"), embeddings.embed_documents(["birds"])[0]]) @ document
    assert abs(as_query - as_document) > 1e-3
    assert hit["score"] == pytest.approx(as_query, abs=1e-5)


def test_the_record_survives_a_power_cut(folder: Path) -> None:
    with watched_renames() as renames:
        index(folder)
    assert [(rename.target.name, rename.durable) for rename in renames] == [(RECORD, True)]


def test_a_missing_database_or_folder_is_named(tmp_path: Path) -> None:
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
