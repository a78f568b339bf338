"""An example of each object that the OpenAPI document names and that has none of its own.

They belong together: one upload, the document it became, an answer from that, and what was said to it. A test reads
each as what it is an example of. Knows no route.
"""

from typing import Any

_WHEN = "2026-11-20T09:30:00Z"
_ANSWER_ID = "3f0c4f3e-4a5b-4a53-8a55-5b1c2b7f1c11"
_CONVERSATION_ID = "5d1f0c52-3a30-4a57-9f5a-0a6a1f1f7b1e"
_QUESTION = "How long may an expense report wait?"
_QUOTE = "Expense reports are paid within ten days."
_SOURCE, _TITLE, _HEADING = "upload/handbook.pdf", "Handbook", "Expenses"

_CONVERSATION = {"id": _CONVERSATION_ID, "title": _QUESTION, "created_at": _WHEN, "updated_at": _WHEN}
_CITATION = {
    "marker": 1,
    "chunk_id": 42,
    "source": _SOURCE,
    "title": _TITLE,
    "heading": _HEADING,
    "quote": _QUOTE,
    "start": 1_200,
    "end": 1_241,
    "page": 3,
}
_PASSAGE = {
    "chunk_id": 42,
    "source": _SOURCE,
    "title": _TITLE,
    "heading": _HEADING,
    "start": 1_200,
    "end": 1_241,
    "text": _QUOTE,
    "score": 0.91,
    "keyword": 7.3,
    "dense": 0.64,
    "rerank": None,
    "page": 3,
    "use": "cited",
}
_ANSWER = {
    "id": _ANSWER_ID,
    "question": _QUESTION,
    "text": "At most ten days. [1]",
    "abstained": False,
    "model": "openai/gpt-4o-mini",
    "notice": "",
    "prompt_hash": "9f2c1e7ab01d",
    "usage": {"input_tokens": 812, "output_tokens": 31, "cached_tokens": 0, "estimated": False},
    "cost_nanousd": 140_400,
    "latency_ms": 912,
    "reason": "",
    "standalone": _QUESTION,
    "conversation_id": _CONVERSATION_ID,
    "citations": [_CITATION],
    "rejected": [],
    "passages": [_PASSAGE],
}

EXAMPLES: dict[str, Any] = {
    "Question": {"question": _QUESTION, "stream": False, "filters": {"source_prefix": "upload/"}},
    "Answer": _ANSWER,
    "CitedPlace": {
        "marker": 1,
        "source": _SOURCE,
        "title": _TITLE,
        "heading": _HEADING,
        "page": 3,
        "before": "Send the receipts with the report.\n\n",
        "quote": _QUOTE,
        "after": "\n\nAsk the office where it takes longer.",
        "changed": False,
    },
    "Conversation": _CONVERSATION,
    "WholeConversation": _CONVERSATION | {"answers": [_ANSWER | {"feedback": "up"}]},
    "Feedback": {
        "id": "c9b8a8a4-0d9d-4f4b-9b43-2d5e5a0f6c55",
        "answer_id": _ANSWER_ID,
        "rating": "up",
        "comment": "Exactly what I looked for.",
        "correction": "",
        "created_at": _WHEN,
        "reviewed_at": None,
    },
    "StoredDocument": {
        "id": 7,
        "source": _SOURCE,
        "title": _TITLE,
        "media_type": "application/pdf",
        "origin": "upload",
        "metadata": {"department": "sales"},
        "chunks": 42,
        "created_at": _WHEN,
    },
}
