"""Near-duplicates: texts that share nearly all of their runs of five words.

Exact, not hashed: a search compares a few dozen texts. Knows nothing of passages or scores.
"""

import re

RUN = 5
ALIKE = 0.9
WORD = re.compile(r"\w+")

Runs = frozenset[tuple[str, ...]]


def runs(text: str) -> Runs:
    """Every run of five words, in small letters; a shorter text is one run."""
    words = WORD.findall(text.casefold())
    return frozenset(zip(*(words[start:] for start in range(min(RUN, len(words)))), strict=False))


def are_alike(a: Runs, b: Runs) -> bool:
    """Whether the Jaccard similarity is at least 0.9; texts without a word are like none."""
    fewer, more = sorted((len(a), len(b)))
    if not fewer or fewer < ALIKE * more:
        return False
    shared = len(a & b)
    return shared >= ALIKE * (fewer + more - shared)
