"""Safetensors files: written by MLX, cut short, or crafted."""

import json
import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_qwen_embeddings.checkpoint.safetensors import check_safetensors
from mlx_qwen_embeddings.errors import ModelLoadError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)


def tensor(start: object, end: object, shape: object = (1,), dtype: object = "F32") -> dict[str, Any]:
    return {"data_offsets": [start, end], "shape": shape, "dtype": dtype}


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16, mx.uint32, mx.int8, mx.uint8, mx.int64])
def test_what_mlx_writes_is_valid(dtype: mx.Dtype, path: Path) -> None:
    arrays = {"a": mx.ones((3, 5), dtype), "scalar": mx.array(1).astype(dtype), "b.c": mx.ones((2,), dtype)}
    mx.save_safetensors(str(path), arrays, {"format": "mlx"})
    check_safetensors(path)
    assert set(mx.load(str(path))) == set(arrays)


def test_a_file_without_tensors_is_valid(path: Path) -> None:
    write(path, {})
    check_safetensors(path)


def test_a_file_cut_at_any_byte_is_refused(path: Path) -> None:
    mx.save_safetensors(str(path), {"a": mx.ones((4, 4)), "b": mx.ones((3,))})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelLoadError, match=str(path)):
            check_safetensors(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelLoadError, match="too long"):
        check_safetensors(path)


CRAFTED: dict[str, tuple[object, bytes]] = {
    "negative": ({"a": tensor(-4, 0)}, b""),
    "backwards": ({"a": tensor(4, 0)}, b""),
    "beyond the end": ({"a": tensor(0, 4)}, b"123"),
    "huge": ({"a": tensor(0, 2**70, [2**68])}, b"1234"),
    "overlap": ({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, b"x" * 12),
    "gap": ({"a": tensor(0, 4), "b": tensor(8, 12)}, b"x" * 12),
    "the same twice": ({"a": tensor(0, 4), "b": tensor(0, 4)}, b"x" * 4),
    "late start": ({"a": tensor(4, 8)}, b"x" * 8),
    "shape too large": ({"a": tensor(0, 4, [2])}, b"x" * 4),
    "shape that overflows": ({"a": tensor(0, 0, [2**62, 2**62, 0, 5, -1])}, b""),
    "negative shape": ({"a": tensor(0, 4, [-1])}, b"x" * 4),
    "two negatives": ({"a": tensor(0, 4, [-1, -1])}, b"x" * 4),
    "float offsets": ({"a": tensor(0.0, 4.0)}, b"x" * 4),
    "text offsets": ({"a": tensor("0", "4")}, b"x" * 4),
    "three offsets": ({"a": {"data_offsets": [0, 2, 4], "shape": [1], "dtype": "F32"}}, b"x" * 4),
    "no offsets": ({"a": {"shape": [1], "dtype": "F32"}}, b"x" * 4),
    "no shape": ({"a": {"data_offsets": [0, 4], "dtype": "F32"}}, b"x" * 4),
    "shape that is a number": ({"a": tensor(0, 4, 1)}, b"x" * 4),
    "type that is a list": ({"a": tensor(0, 4, [1], ["F32"])}, b"x" * 4),
    "tensor that is a list": ({"a": [0, 4]}, b"x" * 4),
    "a list": ([], b""),
    "not JSON": (b"{nonsense", b""),
    "not UTF-8": (b'{"\xff": 1}', b""),
    "nested": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "a number of many digits": (b'{"a":' + b"9" * 10_000 + b"}", b""),
}


@pytest.mark.parametrize(("header", "data"), CRAFTED.values(), ids=CRAFTED.keys())
def test_a_crafted_header_is_refused(header: object, data: bytes, path: Path) -> None:
    write(path, header, data)
    with pytest.raises(ModelLoadError, match=str(path)):
        check_safetensors(path)


@pytest.mark.parametrize("length", [0, 1, 3, 100_000_001, 2**63, 2**64 - 1])
def test_an_impossible_header_length_is_refused(length: int, path: Path) -> None:
    write(path, {}, b"", length=length)
    with pytest.raises(ModelLoadError, match=f"claims {length} bytes"):
        check_safetensors(path)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\0" * 8])
def test_a_file_without_a_header_is_refused(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(ModelLoadError):
        check_safetensors(path)


def test_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(ModelLoadError):
        check_safetensors(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_header_with_changed_bytes_is_refused_or_still_consistent(path: Path, seed: int) -> None:
    draw = random.Random(seed)
    raw = bytearray(json.dumps({"a": tensor(0, 8, [2]), "b": tensor(8, 12)}).encode())
    for _ in range(draw.randint(1, 4)):
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    write(path, bytes(raw), b"x" * 12)
    try:
        check_safetensors(path)
    except ModelLoadError:
        return
    entries = [entry for name, entry in json.loads(raw).items() if name != "__metadata__"]
    assert sum(end - start for start, end in (entry["data_offsets"] for entry in entries)) == 12
