"""What may be asked: a question and filters that every later step can work with. Knows nothing of those steps."""

from app.errors import InvalidInput
from app.settings import Settings
from app.types import Filter

MOST_FILTERS = 20
LONGEST_FILTER = 1_000  # characters


def checked_question(question: str, settings: Settings) -> str:
    """The question without white space around it.

    Raises:
        InvalidInput: it is empty, too long, or no text.

    """
    question = question.replace("\0", "").strip()
    if not question:
        raise InvalidInput("the question is empty")
    limit = settings.max_question_characters
    if len(question) > limit:
        raise InvalidInput(f"the question has {len(question):,} characters; {limit:,} are allowed")
    return _unicode(question, "the question")


def checked_filter(filters: Filter | None) -> Filter | None:
    """The filters; None where they limit nothing.

    Raises:
        InvalidInput: there are too many, or one is too long or no text.

    """
    if filters is None or not (filters.metadata or filters.source_prefix):
        return None
    if len(filters.metadata) > MOST_FILTERS:
        raise InvalidInput(f"there are {len(filters.metadata)} filters; {MOST_FILTERS} are allowed")
    for text in (filters.source_prefix, *filters.metadata, *filters.metadata.values()):
        if len(text) > LONGEST_FILTER or "\0" in text:
            raise InvalidInput(f"a filter has up to {LONGEST_FILTER:,} characters, and none of them is NUL")
        _unicode(text, "a filter")
    return filters


def _unicode(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{name} is not valid Unicode text") from None
    return text
