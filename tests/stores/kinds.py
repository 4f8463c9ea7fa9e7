"""Every store of both frameworks, behind the same few methods."""

from importlib.util import find_spec

from tests.stores import with_langchain, with_llama_index

KINDS = {
    f"{framework.NAME} {name}": kind
    for framework in (with_langchain, with_llama_index)
    for name, kind in framework.KINDS.items()
    if name != "pgvector" or find_spec("pgserver")  # its wheels end at Python 3.12, and lack Linux on arm64
}
