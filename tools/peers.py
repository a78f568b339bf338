"""What other libraries do with the same documents, each in an environment of its own: the benchmarks' child processes.

    PYTHON tools/peers.py NAME FOLDER

`FOLDER/texts.json` maps each document's id to its text. What comes out is one JSON object on standard output. Imports
nothing of this project, and each library only where it is used.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EMBEDDER = "wordllama==0.4.0.post1"
# Exact, and no dependencies of the template or of a generated project.
PINS = {
    "bm25s": ("bm25s==0.3.16", "pystemmer==3.1.0"),
    "langchain-chroma": (
        *("langchain-chroma==1.1.0", "chromadb==1.5.9", "langchain-core==1.7.2", "langchain-text-splitters==1.1.3"),
        EMBEDDER,
    ),
    "llama-index": ("llama-index-core==0.14.25", EMBEDDER),
    "haystack": ("haystack-ai==3.4.0", EMBEDDER),
    "ir-measures": ("ir-measures==0.4.3",),
}
CHUNK_CHARACTERS = 600
CHUNK_WORDS = 100  # about as many characters
BATCH = 128  # texts embedded at once, as the gateway does
DEEPEST = 100

Texts = dict[str, str]
Embed = Callable[[list[str]], list[list[float]]]
Ingest = Callable[[Texts], int]


def rank_with_bm25s(texts: Texts, queries: Texts, stop_words: str | list[str]) -> dict[str, list[str]]:
    """The best documents for each query: English stop words and stemmer, everything else as the library has it."""
    import bm25s  # noqa: PLC0415  # see the module's docstring
    import Stemmer  # noqa: PLC0415  # as above

    words = {"stopwords": stop_words, "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    index = bm25s.BM25(corpus=list(texts))
    index.index(bm25s.tokenize(list(texts.values()), **words), show_progress=False)
    wanted = bm25s.tokenize(list(queries.values()), **words)
    found = index.retrieve(wanted, k=min(DEEPEST, len(texts)), show_progress=False)
    rows = zip(queries, found.documents.tolist(), found.scores.tolist(), strict=True)
    return {query: [n for n, score in zip(names, scores, strict=True) if score > 0] for query, names, scores in rows}


def langchain_chroma(folder: Path, embed: Embed) -> Ingest:
    """LangChain's usual splitter and Chroma on disk."""
    from langchain_chroma import Chroma  # noqa: PLC0415  # see the module's docstring
    from langchain_core.documents import Document  # noqa: PLC0415  # as above
    from langchain_core.embeddings import Embeddings  # noqa: PLC0415  # as above
    from langchain_text_splitters import RecursiveCharacterTextSplitter  # noqa: PLC0415  # as above

    class Static(Embeddings):  # type: ignore[misc]  # of a library that is not in this environment
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vector for batch in _batches(texts) for vector in embed(list(batch))]

        def embed_query(self, text: str) -> list[float]:
            return embed([text])[0]

    store = Chroma("bench", embedding_function=Static(), persist_directory=str(folder))
    splitter = RecursiveCharacterTextSplitter(chunk_size=CHUNK_CHARACTERS, chunk_overlap=0)

    def ingest(texts: Texts) -> int:
        chunks = splitter.split_documents([Document(text, metadata={"source": n}) for n, text in texts.items()])
        store.add_documents(chunks)
        return len(store.get(include=[])["ids"])

    return ingest


def llama_index(folder: Path, embed: Embed) -> Ingest:
    """LlamaIndex's usual splitter and its own vector store, written to disk."""
    from llama_index.core import Document, VectorStoreIndex  # noqa: PLC0415  # see the module's docstring
    from llama_index.core.embeddings import BaseEmbedding  # noqa: PLC0415  # as above
    from llama_index.core.node_parser import SentenceSplitter  # noqa: PLC0415  # as above

    class Static(BaseEmbedding):  # type: ignore[misc]  # as above
        def _get_text_embedding(self, text: str) -> list[float]:
            return embed([text])[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return embed(texts)

        _get_query_embedding = _get_text_embedding

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    # It counts in tokens; a character each, or it would have to fetch a tokenizer.
    splitter = SentenceSplitter(chunk_size=CHUNK_CHARACTERS, chunk_overlap=0, tokenizer=list, include_metadata=False)

    def ingest(texts: Texts) -> int:
        nodes = splitter.get_nodes_from_documents([Document(text=text, id_=n) for n, text in texts.items()])
        VectorStoreIndex(nodes, embed_model=Static(embed_batch_size=BATCH)).storage_context.persist(str(folder))
        return len(nodes)

    return ingest


def haystack(folder: Path, embed: Embed) -> Ingest:
    """Haystack's usual splitter and its own document store, written to disk."""
    from dataclasses import replace  # noqa: PLC0415  # beside what uses it

    from haystack import Document  # noqa: PLC0415  # see the module's docstring
    from haystack.components.preprocessors import DocumentSplitter  # noqa: PLC0415  # as above
    from haystack.document_stores.in_memory import InMemoryDocumentStore  # noqa: PLC0415  # as above

    splitter = DocumentSplitter(split_by="word", split_length=CHUNK_WORDS, split_overlap=0)
    store = InMemoryDocumentStore()

    def ingest(texts: Texts) -> int:
        chunks = splitter.run([Document(content=text, meta={"source": n}) for n, text in texts.items()])["documents"]
        for batch in _batches(chunks):
            vectors = embed([chunk.content for chunk in batch])
            store.write_documents([replace(c, embedding=v) for c, v in zip(batch, vectors, strict=True)])
        store.save_to_disk(str(folder / "store.json"))
        return int(store.count_documents())

    return ingest


PEERS = {"langchain-chroma": langchain_chroma, "llama-index": llama_index, "haystack": haystack}


def measure(ingest: Ingest, texts: Texts) -> dict[str, float]:
    """Seconds by the clock and of all threads' CPU time, imports and the loading of the model not counted."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    chunks = ingest(texts)
    return {"chunks": chunks, "wall": time.perf_counter() - wall, "cpu": sum(os.times()[:4]) - cpu}


def load_embedder() -> Embed:
    """The vectors that `offline/static` gives, from the weights inside the wheel."""
    import wordllama  # noqa: PLC0415  # see the module's docstring

    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)

    def embed(texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = model.embed(texts, norm=True).tolist()
        return vectors

    embed(["loaded"])
    return embed


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def _read(file: Path) -> Any:  # noqa: ANN401  # JSON
    return json.loads(file.read_text(encoding="utf-8"))


def main() -> None:
    """Rank or ingest what the folder holds."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    texts = _read(folder / "texts.json")
    if name == "bm25s":
        queries, stop_words = _read(folder / "queries.json"), _read(folder / "stop_words.json")
        print(json.dumps([rank_with_bm25s(texts, queries, words) for words in ("en", stop_words)]))
        return
    store = folder / name
    store.mkdir()
    print(json.dumps(measure(PEERS[name](store, load_embedder()), texts)))


if __name__ == "__main__":
    main()
