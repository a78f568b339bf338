"""What an answer cost: time, tokens and money. Less is better. Knows nothing of whether it was worth it."""

from app.evals.dataset import Case
from app.evals.evaluators import Texts, evaluator
from app.types import Answer


@evaluator("latency_ms", higher_is_better=False, unit="ms")
def latency_ms(_: Case, answer: Answer, __: Texts) -> float:
    """From the question to the whole answer, searching and storing included."""
    return answer.latency_ms


@evaluator("input_tokens", higher_is_better=False, unit="tokens")
def input_tokens(_: Case, answer: Answer, __: Texts) -> float:
    """What the chat model read, as its provider counts."""
    return answer.usage.input_tokens


@evaluator("output_tokens", higher_is_better=False, unit="tokens")
def output_tokens(_: Case, answer: Answer, __: Texts) -> float:
    """What the chat model wrote, as its provider counts."""
    return answer.usage.output_tokens


@evaluator("cost_usd", higher_is_better=False, unit="usd")
def cost_usd(_: Case, answer: Answer, __: Texts) -> float | None:
    """All calls of the answer together; None where a price is unknown."""
    return None if answer.cost_nanousd is None else answer.cost_nanousd / 1e9
