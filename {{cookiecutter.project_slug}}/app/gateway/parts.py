"""What a message may hold, in OpenAI's format, and what a deployment must take for it: images, sound.

Whatever is not known here is refused. An image comes as a data: URL and never as an address: litellm fetches http(s)
addresses from inside this process (`async_convert_url_to_base64` in its `prompt_templates/image_handling.py`, also for
the parts `file`, `document` and `image`), and a caller must not choose whom this machine talks to.
Knows nothing of models.
"""

import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from app.errors import InvalidInput

Input = Literal["image", "audio"]

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
DEEPEST = 100  # levels of nesting: whoever encodes it further on has less of the stack left than we
TEXT_ONLY: frozenset[Input] = frozenset()
# The bytes that a file of each type begins with.
IMAGES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/webp": re.compile(rb"(?s:RIFF....WEBP)"),
    "image/gif": re.compile(rb"GIF8[79]a"),
}
SOUNDS = {
    "wav": re.compile(rb"(?s:RIFF....WAVE)"),
    "mp3": re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"),  # a tag, or the first frame of MPEG 1, 2 or 2.5
}


PARAMETERS = frozenset(
    """
    temperature top_p seed stop max_tokens max_completion_tokens presence_penalty frequency_penalty logit_bias
    reasoning_effort response_format tools tool_choice parallel_tool_calls user
    """.split()  # noqa: SIM905  # a list of strings would take half a page
)


def with_defaults(parameters: Mapping[str, Any], *, max_tokens: int) -> dict[str, Any]:
    """What goes along with the messages: temperature 0 and a limit of tokens, where nothing else is given.

    Lets through what OpenAI's format has for one reply, and nothing that says where a call goes or with which key.

    Raises:
        InvalidInput: names the parameter.

    """
    given = {name: value for name, value in parameters.items() if value is not None}
    if unknown := sorted(given.keys() - PARAMETERS):
        raise InvalidInput(f"unknown parameters: {', '.join(unknown)}; there are {', '.join(sorted(PARAMETERS))}")
    _sendable(given, "parameters")
    if not given.keys() & {"max_tokens", "max_completion_tokens"}:
        given["max_tokens"] = max_tokens
    for name in ("max_tokens", "max_completion_tokens"):
        most = given.get(name, 1)
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise InvalidInput(f"{name} must be a whole number above 0")
    return {"temperature": 0} | given


def check(messages: object, *, most_bytes: int) -> frozenset[Input]:
    """Say which inputs beside text the messages need. An attachment may have `most_bytes`, decoded.

    Raises:
        InvalidInput: says which message is wrong and what is allowed, and repeats nothing of it.

    """
    if not isinstance(messages, list) or not messages:
        raise InvalidInput("messages must be a list of at least one message")
    needed = TEXT_ONLY
    for number, message in enumerate(messages, 1):
        try:
            needed |= _message(message, most_bytes)
        except InvalidInput as error:
            raise InvalidInput(f"message {number}: {error.message}") from None
    _sendable(messages, "messages")
    return needed


def _sendable(value: object, name: str) -> None:
    """What cannot be sent is the caller's mistake, and must not look like the provider's."""
    if _is_deeper(value, DEEPEST):
        raise InvalidInput(f"{name} are nested more than {DEEPEST} levels deep")
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput(f"{name} hold what JSON cannot") from None


def _is_deeper(value: object, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inside is not None and (levels == 0 or any(_is_deeper(part, levels - 1) for part in inside))


def _message(message: Any, most_bytes: int) -> frozenset[Input]:  # noqa: ANN401  # nothing is known of it yet
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidInput(f"a message is an object whose role is one of {', '.join(sorted(ROLES))}")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise InvalidInput("a tool's message needs tool_call_id")
    content = message.get("content")
    if role == "assistant" and message.get("tool_calls") is not None:
        _tool_calls(message["tool_calls"])
        if content is None:
            return TEXT_ONLY
    if isinstance(content, list) and content:
        return frozenset(needs for part in content for needs in _part(part, role, most_bytes))
    _text(content, "content must be text or a list of parts")
    return TEXT_ONLY


def _tool_calls(calls: object) -> None:
    shape = 'tool_calls must be a list of {"id", "type": "function", "function": {"name", "arguments"}}, all of it text'
    if not isinstance(calls, list) or not calls:
        raise InvalidInput(shape)
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type") != "function":
            raise InvalidInput(shape)
        for value in (call.get("id"), function.get("name"), function.get("arguments")):
            _text(value, shape)


def _part(part: Any, role: str, most_bytes: int) -> frozenset[Input]:  # noqa: ANN401  # nothing is known of it yet
    kind = part.get("type") if isinstance(part, dict) else None
    # Other fields than these are refused: somebody further on might read an address in them.
    if kind == "text" and part.keys() <= {"type", "text", "cache_control"}:
        _text(part.get("text"), "a text part's text must be text")
        return TEXT_ONLY
    if kind not in ("image_url", "input_audio") or role != "user" or part.keys() != {"type", kind}:
        raise InvalidInput("a part is text, or in a user's message also image_url or input_audio, with no other fields")
    if not isinstance(part[kind], dict):
        raise InvalidInput(f"{kind} must be an object")
    return (_image if kind == "image_url" else _audio)(part[kind], most_bytes)


def _image(image: dict[str, Any], most_bytes: int) -> frozenset[Input]:
    url = image.get("url")
    head, _, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    media_type = head.removeprefix("data:").removesuffix(";base64")
    if head != f"data:{media_type};base64" or media_type not in IMAGES or not image.keys() <= {"url", "detail"}:
        allowed = ", ".join(IMAGES)
        raise InvalidInput(
            f"image_url takes url, as data:TYPE;base64,... and no address, and detail; TYPE is {allowed}"
        )
    if image.get("detail", "auto") not in ("auto", "low", "high"):
        raise InvalidInput("an image's detail is auto, low or high")
    _attachment(data, IMAGES[media_type], media_type, most_bytes)
    return frozenset({"image"})


def _audio(audio: dict[str, Any], most_bytes: int) -> frozenset[Input]:
    data, kind = audio.get("data"), audio.get("format")
    if not (isinstance(data, str) and isinstance(kind, str) and kind in SOUNDS and audio.keys() == {"data", "format"}):
        raise InvalidInput(f"input_audio takes data in base64 and format, which is one of {', '.join(SOUNDS)}")
    _attachment(data, SOUNDS[kind], kind, most_bytes)
    return frozenset({"audio"})


def _attachment(data: str, begins: re.Pattern[bytes], kind: str, most_bytes: int) -> None:
    """Measure, then decode: a text of gigabytes is refused by its length."""
    if len(data) // 4 * 3 - data[-2:].count("=") > most_bytes:
        raise InvalidInput(f"an attachment may have {most_bytes:,} bytes (MAX_ATTACHMENT_BYTES)")
    try:
        content = binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        raise InvalidInput("an attachment must be valid base64") from None
    if not begins.match(content):
        raise InvalidInput(f"an attachment does not begin as {kind} does")


def _text(value: object, otherwise: str) -> None:
    if not isinstance(value, str):
        raise InvalidInput(otherwise)
    if not value.isascii():  # a look at a flag, where encoding would copy
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInput("text must be valid Unicode") from None
