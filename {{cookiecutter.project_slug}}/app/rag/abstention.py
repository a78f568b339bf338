"""Why there is no answer: the model said so, no citation held, or nothing was found. Knows nothing of storage."""

import re
from collections import Counter
from collections.abc import Sequence

from app.gateway import offline
from app.prompts.fence import read_fences
from app.types import Completion, Message, RejectedCitation

ABSTENTION = "The documents do not answer this question."
NOTHING_FOUND = "Nothing was found to answer from, in the documents that the question was limited to."
# In any case, emphasised, with or without a full stop, and whatever is said around it.
SAYS_SO = re.compile(r"(?<![^\W_])not[\W_]+in[\W_]+the[\W_]+documents(?![^\W_])", re.IGNORECASE)


def reason(
    completion: Completion, messages: Sequence[Message], rejected: Sequence[RejectedCitation], *, abstain_below: float
) -> str:
    """A sentence for the reader of an answer without a citation that holds."""
    if completion.refusal:
        return "The model declined to answer."
    if completion.model == offline.EXTRACTIVE:
        return _score(messages, abstain_below)
    if SAYS_SO.search(completion.text):
        return "The model found no answer in the passages."
    if rejected:
        faults = Counter(citation.fault for citation in rejected)
        return f"No citation holds: {', '.join(f'{number} {fault}' for fault, number in faults.items())}."
    return "The model cited nothing."


def _score(messages: Sequence[Message], abstain_below: float) -> str:
    """Ranked once more: what the model compared is not in what it said."""
    ranked = offline.rank(*read_fences(messages))
    if not ranked:
        return "Nothing in the passages can be compared with the question."
    return f"The best sentence scores {ranked[0].score:.3f}, and ABSTAIN_BELOW is {abstain_below:g}."
