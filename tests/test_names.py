"""Names that cannot work are refused before a file is written, with a name that works."""

from pathlib import Path

import pytest
from cookiecutter.exceptions import CookiecutterException

from tools.render import render

REFUSED = {
    "project_slug": [
        "1_2!",
        "My App",
        "my_app",
        "-app",
        "app-",
        "class",
        "match",
        "json",
        "app",
        "tests",
        "true",
        "litellm",
        "über",
        "日本",
        "x" * 61,
    ],
    "project_name": ["", "   ", 'say "hi"', "back\\slash", "two\nlines", "$HOME", "`id`", "a{b}", "n" * 101],
    "description": ["", 'a "quoted" word', "line\nbreak", "tab\there"],
    "author_name": ["", 'Ada "A" Example'],
    "author_email": ["", "nobody", "a@b", 'x"@example.com', "a b@example.com"],
}
CASES = [(field, value) for field, values in REFUSED.items() for value in values]


@pytest.mark.parametrize(("field", "value"), CASES)
def test_refused_with_advice(tmp_path: Path, capfd: pytest.CaptureFixture[str], field: str, value: str) -> None:
    """A value that cannot work ends the render with a message naming the field, and leaves nothing behind."""
    others = {"project_slug": "fine"} if field == "project_name" else {}
    with pytest.raises(CookiecutterException):
        render(tmp_path, **{field: value}, **others)
    message = capfd.readouterr().err
    assert f"ERROR: {field} " in message
    assert "Nothing was written" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("slug", ["a/b", "../up", "a\\b"])
def test_path_separators_write_no_file(tmp_path: Path, slug: str) -> None:
    """A slug with a path separator is refused, and no file is written anywhere."""
    with pytest.raises(CookiecutterException):
        render(tmp_path / "output", project_slug=slug)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("wrong", "right"), [("My App", "my-app"), ("my_app", "my-app"), ("日本", "my-ai-app")])
def test_suggests_a_slug_that_works(tmp_path: Path, capfd: pytest.CaptureFixture[str], wrong: str, right: str) -> None:
    """The message offers the nearest slug, and that slug renders."""
    with pytest.raises(CookiecutterException):
        render(tmp_path, project_slug=wrong)
    assert repr(right) in capfd.readouterr().err
    assert render(tmp_path, project_slug=right).name == right
