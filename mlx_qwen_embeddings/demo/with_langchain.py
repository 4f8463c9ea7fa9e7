"""The search with LangChain."""

from collections.abc import Sequence

from langchain_core.vectorstores import InMemoryVectorStore

from mlx_qwen_embeddings.demo.passages import Passage
from mlx_qwen_embeddings.demo.runs import Find, Hit
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings


def build(model: str, passages: Sequence[Passage]) -> Find:
    """Put the passages into a vector store and give its search for the best one."""
    store = InMemoryVectorStore(MLXQwenEmbeddings(model=model))
    by_id = {passage.id: passage for passage in passages}
    store.add_texts([passage.text for passage in passages], ids=list(by_id))

    def find(question: str) -> Hit:
        ((document, score),) = store.similarity_search_with_score(question, k=1)
        return Hit(by_id[str(document.id)], score)

    return find
