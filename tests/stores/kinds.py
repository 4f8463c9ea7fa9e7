"""All stores of both frameworks, behind one interface."""

from importlib.util import find_spec

import pytest

from tests.stores import with_langchain, with_llama_index

KINDS = {
    f"{framework.NAME} {name}": kind
    for framework in (with_langchain, with_llama_index)
    for name, kind in framework.KINDS.items()
}

HERE = [name for name in KINDS if "pgvector" not in name or find_spec("pgserver")]
"""The stores that can run on this machine."""

_REASON = "pgserver, which brings PostgreSQL with pgvector, is not installed: no wheel for Python 3.13 or Linux on arm64"

every = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.skipif(name not in HERE, reason=_REASON)) for name in KINDS]
)
