"""What messages may hold: text, images and sound as data, and nothing that makes this machine fetch an address."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.gateway.parts import DEEPEST, IMAGES, ROLES, SOUNDS, check, with_defaults

MOST = 1_000
# The least of each kind that is taken for it: the bytes a file begins with, and some more.
BEGINNINGS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/webp": b"RIFF\n\x00\x00\x00WEBP",
    "image/gif": b"GIF89a",
    "wav": b"RIFF\n\x00\x00\x00WAVE",
    "mp3": b"\xff\xfb\x90",
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _picture(media_type: str = "image/png", content: bytes | None = None) -> dict[str, Any]:
    data = _base64(BEGINNINGS["image/png"] if content is None else content)
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}


def _sound(kind: str = "wav", content: bytes | None = None) -> dict[str, Any]:
    data = _base64(BEGINNINGS["wav"] if content is None else content)
    return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}


def _user(*parts: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def _refusal(messages: object) -> str:
    with pytest.raises(InvalidInput) as refused:
        check(messages, most_bytes=MOST)
    return refused.value.message


@pytest.mark.parametrize(
    "messages",
    [
        *([{"role": role, "content": "Hello, wörld."}] for role in sorted(ROLES - {"tool"})),
        _user({"type": "text", "text": "Hello."}, {"type": "text", "text": "", "cache_control": {"type": "ephemeral"}}),
        [
            {"role": "user", "content": "Find it."},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "found"}]},
            {"role": "assistant", "content": "Once more.", "tool_calls": [CALL]},
            {"role": "assistant", "content": "Here.", "tool_calls": None, "refusal": None},
        ],
    ],
)
def test_text_and_tool_calls_need_nothing_special(messages: list[dict[str, Any]]) -> None:
    """Every role may speak in text, and an assistant that calls tools may say nothing."""
    assert check(messages, most_bytes=MOST) == frozenset()


@pytest.mark.parametrize("media_type", IMAGES)
def test_an_image_in_a_data_url_needs_a_model_that_sees(media_type: str) -> None:
    """Each of the four types passes, as the file it says to be."""
    assert check(_user(_picture(media_type, BEGINNINGS[media_type] + b"...")), most_bytes=MOST) == {"image"}


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_sound_needs_a_model_that_hears(kind: str) -> None:
    """Both formats pass, as the file they say to be."""
    assert check(_user(_sound(kind, BEGINNINGS[kind] + b"...")), most_bytes=MOST) == {"audio"}


def test_the_needs_of_all_messages_add_up() -> None:
    """One message shows something, another one sounds, a third is text."""
    messages = [*_user(_picture()), {"role": "user", "content": "Both?"}, *_user(_sound())]
    assert check(messages, most_bytes=MOST) == {"image", "audio"}


def test_every_pair_of_types_is_told_apart() -> None:
    """A file of one type under the name of another is refused."""
    for said in BEGINNINGS:
        for true in BEGINNINGS.keys() - {said}:
            part = (_picture if said in IMAGES else _sound)(said, BEGINNINGS[true])
            assert _refusal(_user(part)) == f"message 1: an attachment does not begin as {said} does"


def test_the_right_beginning_counts_at_the_beginning_only() -> None:
    """A page with a picture somewhere in it is no picture."""
    assert "does not begin as image/png" in _refusal(_user(_picture(content=b"<html>" + BEGINNINGS["image/png"])))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}},
        {"type": "image_url", "image_url": {"url": "HTTPS://example.org/cat.png"}},
        {"type": "image_url", "image_url": {"url": "//example.org/cat.png"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": "https://example.org/cat.png"},
        {"type": "image_url", "image_url": {"url": _picture()["image_url"]["url"], "format": "https://example.org"}},
        {**_picture(), "source": {"type": "url", "url": "https://example.org/cat.png"}},
        {"type": "text", "text": "see", "image_url": {"url": "https://example.org/cat.png"}},
        {"type": "file", "file": {"file_id": "https://example.org/cat.pdf"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.org/cat.pdf"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/cat.png"}},
        {"type": "input_image", "image_url": "https://example.org/cat.png"},
        {"type": "input_audio", "input_audio": {"data": "https://example.org/cat.wav", "format": "wav"}},
        {"type": "input_audio", "input_audio": {**_sound()["input_audio"], "url": "https://example.org/cat.wav"}},
    ],
)
def test_no_part_names_an_address(part: dict[str, Any]) -> None:
    """Wherever the provider library would look for an address to fetch, it is refused, and not repeated."""
    said = _refusal(_user({"type": "text", "text": "Look:"}, part))
    assert said.startswith("message 1: ")
    assert "example.org" not in said


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "messages must be a list"),
        ("Hello.", "messages must be a list"),
        (["Hello."], "message 1: a message is an object whose role is one of assistant, developer"),
        ([{"role": "robot", "content": "Hello."}], "message 1: a message is an object whose role"),
        ([{"role": ["user"], "content": "Hello."}], "message 1: a message is an object whose role"),
        ([{"role": "user"}], "message 1: content must be text"),
        ([{"role": "user", "content": []}], "message 1: content must be text"),
        ([{"role": "assistant", "content": None}], "message 1: content must be text"),
        ([{"role": "user", "content": "Hi."}, {"role": "user", "content": {"text": "Hi."}}], "message 2: content must"),
        ([{"role": "user", "content": "half a \ud83d"}], "message 1: text must be valid Unicode"),
        ([{"role": "tool", "content": "found"}], "message 1: a tool's message needs tool_call_id"),
        ([{"role": "assistant", "tool_calls": []}], "message 1: tool_calls must be"),
        ([{"role": "assistant", "tool_calls": ["find"]}], "message 1: tool_calls must be"),
        ([{"role": "assistant", "tool_calls": [CALL | {"type": "other"}]}], "message 1: tool_calls must be"),
        ([{"role": "assistant", "tool_calls": [CALL | {"id": 1}]}], "message 1: tool_calls must be"),
        (_user("Hello."), "message 1: a part is text"),
        (_user({"type": ["text"]}), "message 1: a part is text"),
        (_user({"type": "text"}), "message 1: a text part's text must be text"),
        ([{"role": "assistant", "content": [_picture()]}], "message 1: a part is text, or in a user's message"),
        (_user(_picture("image/svg+xml")), "message 1: image_url takes url, as data:TYPE;base64"),
        (_user({"type": "image_url", "image_url": {"url": "data:image/png,x"}}), "message 1: image_url takes url"),
        (_user({"type": "input_audio", "input_audio": None}), "message 1: input_audio must be an object"),
        (_user(_sound("flac")), "message 1: input_audio takes data in base64 and format, which is one of wav, mp3"),
    ],
)
def test_what_is_not_a_message_is_refused_with_what_is_allowed(messages: object, says: str) -> None:
    """The error names the message and the rule."""
    assert _refusal(messages).startswith(says)


def test_an_image_may_name_its_detail() -> None:
    """OpenAI's three levels pass and nothing else."""
    picture = _picture()
    picture["image_url"]["detail"] = "high"
    assert check(_user(picture), most_bytes=MOST) == {"image"}
    picture["image_url"]["detail"] = "extreme"
    assert "auto, low or high" in _refusal(_user(picture))


@pytest.mark.parametrize("data", ["%%%%", "iVBORw0KGgo", "iVBORw0KGgo=iVBO", "iVBO Rw0KGgo=", "ïVBORw0KGgo=", ""])
def test_an_attachment_is_valid_base64(data: str) -> None:
    """Wrong letters, missing padding, more after the padding, white space, nothing at all."""
    said = _refusal(_user({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}))
    assert "valid base64" in said or (not data and "does not begin" in said)


@given(st.integers(MOST - 5, MOST + 5))
def test_the_limit_counts_decoded_bytes(size: int) -> None:
    """Exactly so many bytes pass, and one more does not."""
    messages = _user(_picture(content=BEGINNINGS["image/png"].ljust(size, b".")))
    if size <= MOST:
        assert check(messages, most_bytes=MOST) == {"image"}
    else:
        assert "1,000 bytes (MAX_ATTACHMENT_BYTES)" in _refusal(messages)


def test_a_huge_attachment_is_refused_before_it_is_decoded() -> None:
    """What is too long is not even looked at: it need not be base64 to be refused for its length."""
    assert "MAX_ATTACHMENT_BYTES" in _refusal(_user(_sound() | {"input_audio": {"data": "%" * 4_000, "format": "wav"}}))


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=8)
    | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _or_anything(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return strategy | ANYTHING


def _object(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object in which each field is what it should be, or anything, or missing."""
    return st.fixed_dictionaries({}, optional={name: _or_anything(field) for name, field in fields.items()})


URLS = st.builds("{}{},{}".format, st.sampled_from(["data:image/png", "http://a"]), st.just(";base64"), st.text())
FUNCTIONS = _object(name=st.text(), arguments=st.text())
PARTS = _object(
    type=st.sampled_from(["text", "image_url", "input_audio", "file"]),
    text=st.text(st.characters()),
    image_url=_object(url=URLS, detail=st.just("low")),
    input_audio=_object(data=st.text("QUJD="), format=st.sampled_from(sorted(SOUNDS))),
)
MESSAGES = _object(
    role=st.sampled_from(sorted(ROLES)),
    content=st.text(st.characters()) | st.lists(PARTS),
    tool_call_id=st.text(),
    tool_calls=st.lists(_object(id=st.text(), type=st.just("function"), function=FUNCTIONS)),
)


@given(_or_anything(st.lists(MESSAGES)))
def test_no_input_of_any_shape_breaks_the_check(messages: object) -> None:
    """Whatever comes is either taken, with known needs, or refused as invalid input."""
    try:
        needs = check(messages, most_bytes=MOST)
    except InvalidInput:
        return
    assert needs <= {"image", "audio"}


@given(st.sampled_from(sorted(BEGINNINGS)), st.binary(max_size=50))
def test_a_file_of_the_declared_type_is_taken_whatever_follows(kind: str, rest: bytes) -> None:
    """Only the beginning tells the type."""
    part = (_picture if kind in IMAGES else _sound)(kind, BEGINNINGS[kind] + rest)
    assert len(check(_user(part), most_bytes=MOST)) == 1


@pytest.mark.parametrize("name", ["api_base", "api_key", "model", "stream", "n", "mock_response", "extra_headers"])
def test_a_parameter_that_is_none_of_the_models_is_refused(name: str) -> None:
    """Nobody can send a call, or a key, elsewhere by a parameter."""
    with pytest.raises(InvalidInput, match=f"unknown parameters: {name}"):
        with_defaults({"temperature": 0, name: "x"}, max_tokens=9)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("most", [0, -1, "5", 1.5, True])
def test_a_limit_of_tokens_is_a_whole_number(name: str, most: object) -> None:
    """What a budget is reserved by has to be one."""
    with pytest.raises(InvalidInput, match=f"{name} must be a whole number above 0"):
        with_defaults({name: most}, max_tokens=9)


def test_defaults_stand_where_nothing_else_is_given() -> None:
    """Temperature 0 and the limit; one limit goes out, never two of them."""
    assert with_defaults({"seed": None}, max_tokens=9) == {"temperature": 0, "max_tokens": 9}
    given = {"temperature": 1, "max_completion_tokens": 5}
    assert with_defaults(given, max_tokens=9) == given


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {1}, object()])
def test_what_json_cannot_hold_is_the_callers_mistake(value: object) -> None:
    """In a parameter and in any field of a message; the provider would only be blamed for it."""
    with pytest.raises(InvalidInput, match="parameters hold what JSON cannot"):
        with_defaults({"stop": value}, max_tokens=9)
    with pytest.raises(InvalidInput, match="messages hold what JSON cannot"):
        check([{"role": "user", "content": "hello", "name": value}], most_bytes=9)


@pytest.mark.parametrize("inner", [list, dict])
def test_what_is_nested_too_deep_is_the_callers_mistake(inner: type) -> None:
    """A hundred levels are enough for any schema, and more would not be encoded further on."""

    def nested(levels: int) -> Any:
        value: Any = "x"
        for _ in range(levels):
            value = [value] if inner is list else {"a": value}
        return value

    assert with_defaults({"stop": nested(DEEPEST - 1)}, max_tokens=1)
    with pytest.raises(InvalidInput, match="100 levels"):
        with_defaults({"stop": nested(DEEPEST)}, max_tokens=1)
