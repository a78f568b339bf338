"""Errors: a docstring is a message, a name is a code, and the drawing in the module is true."""

import re

import pytest

from app import errors
from app.errors import AppError, ConfigurationError, NoDocuments, ProviderRateLimited

DRAWN = re.compile(r"([A-Z]\w+) +(\d{3})")


def _family(kind: type[AppError]) -> list[type[AppError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _family(child))]


def test_the_drawing_shows_every_error_with_its_status() -> None:
    """The tree in the module's docstring holds every error and its HTTP status, and no other."""
    drawn = DRAWN.findall(errors.__doc__ or "")
    assert sorted(drawn) == sorted((kind.__name__, str(kind.status)) for kind in _family(AppError))


@pytest.mark.parametrize("kind", _family(AppError))
def test_an_error_without_detail_says_its_docstring(kind: type[AppError]) -> None:
    """The docstring's first paragraph is the message, in one clean line that ends like a sentence."""
    message = kind().message
    assert message == str(kind()) == (kind.__doc__ or "").strip().partition("\n\n")[0]
    assert re.fullmatch(r"[A-Z].+\.", message)


def test_an_error_with_detail_says_the_detail() -> None:
    """What is known about this case wins over the general sentence."""
    assert str(ConfigurationError("set PORT")) == ConfigurationError("set PORT").message == "set PORT"


def test_the_code_is_the_name_that_programs_compare() -> None:
    """CamelCase becomes snake_case, and all codes differ."""
    assert NoDocuments().code == "no_documents"
    codes = [kind().code for kind in _family(AppError)]
    assert len(set(codes)) == len(codes)


def test_a_provider_error_passes_on_when_to_come_back() -> None:
    """Seconds from Retry-After travel with the error; without them there are none."""
    assert ProviderRateLimited("later", retry_after=2.5).retry_after == 2.5
    assert ProviderRateLimited().retry_after is None
