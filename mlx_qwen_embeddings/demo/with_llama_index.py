"""The search with LlamaIndex."""

from collections.abc import Sequence

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from mlx_qwen_embeddings.demo.passages import Passage
from mlx_qwen_embeddings.demo.runs import Find, Hit
from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding


def build(model: str, passages: Sequence[Passage]) -> Find:
    """Put the passages into an index and give its search for the best one."""
    by_id = {passage.id: passage for passage in passages}
    nodes = [TextNode(id_=passage.id, text=passage.text) for passage in passages]
    retriever = VectorStoreIndex(nodes, embed_model=MLXQwenEmbedding(model_name=model)).as_retriever(similarity_top_k=1)

    def find(question: str) -> Hit:
        (found,) = retriever.retrieve(question)
        return Hit(by_id[found.node.node_id], found.get_score())

    return find
