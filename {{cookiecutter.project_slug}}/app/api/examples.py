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

_MODEL = {"id": "chat", "object": "model", "created": 0, "owned_by": "app", "description": "the chat model"}

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
    "WholeConversation": _CONVERSATION
    | {"answers": [_ANSWER | {"feedback": {"rating": "up", "comment": "", "correction": ""}}]},
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
    "Body_upload_document": {"file": "# Handbook", "metadata": '{"department": "sales"}'},
    "Upload": {
        "id": "0b0d3a0c-6a55-4f0e-9a53-0c7f3b8f4c11",
        "source": _SOURCE,
        "bytes": 184_320,
        "status": "done",
        "attempts": 1,
        "outcome": "added",
        "chunks": 42,
        "error": None,
        "created_at": _WHEN,
        "updated_at": _WHEN,
    },
    "Model": _MODEL,
    "ModelList": {"object": "list", "data": [_MODEL]},
    "ChatCompletion": {
        "id": "chatcmpl-2f6d",
        "object": "chat.completion",
        "created": 1_795_000_000,
        "model": "documents",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "At most ten days. [1]",
                    "refusal": None,
                    "citations": [_CITATION],
                    "answer_id": _ANSWER_ID,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 812,
            "completion_tokens": 31,
            "total_tokens": 843,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    },
    "Response": {
        "id": "resp_2f6d",
        "object": "response",
        "created_at": 1_795_000_000,
        "status": "completed",
        "model": "chat",
        "output": [
            {
                "id": "item_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}],
            }
        ],
        "error": None,
        "incomplete_details": None,
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 11,
        },
        "instructions": None,
        "metadata": {},
    },
    "EmbeddingList": {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.12, -0.03, 0.99]}],
        "model": "embedding",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    },
}
