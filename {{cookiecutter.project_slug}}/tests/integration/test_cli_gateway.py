"""The commands about models, money and the semantic cache, through `main()`."""

import asyncio
import json
import re
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.db import ledger
from app.db.engine import connect
from app.types import Attempt, Inference, Usage
from tests.integration.conftest import Command
from tests.provider import Hang, Provider, Rejected, Reply

NOW = datetime.now(UTC)
CANARY = "canary-key-2f81"
LONG = "http://127.0.0.1:1/v1/with/an/address/that/is/much/longer/than/a/terminal/of/eighty/columns/is/wide"


def set_all(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    """Set variables of the environment."""
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def lines_of(block: str) -> dict[str, str]:
    """The lines of a model's block by their first word."""
    return dict(line.split(maxsplit=1) for line in block.splitlines()[1:])


def test_models_shows_what_is_set_without_a_key(app: Command) -> None:
    """The offline models need nothing, cost nothing, and run here."""
    ended = app("models")
    assert (ended.status, ended.err) == (0, "")
    chat, embedding = re.split(r"^(?=embedding 1)", ended.out, flags=re.MULTILINE)
    assert (chat.splitlines()[0], embedding.splitlines()[0]) == (
        "chat 1: offline/extractive",
        "embedding 1: offline/static",
    )
    shown = {name: value.strip() for name, value in lines_of(chat).items()}
    assert shown == {
        "set": "by    CHAT_MODEL",
        "endpoint": "this process",
        "key": "-",
        "reads": "text of any length",
        "takes": "text",
        "costs": "$0 input, $0 output per million tokens",
        "limits": "64 calls at a time; 30 s to the first token, 15 s of silence",
    }


def test_models_are_shown_in_the_order_in_which_they_are_asked(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """First choice, fallback, then the other roles; what the settings say wins, and of a key only that it is there."""
    set_all(monkeypatch, CHAT_MODEL="openai/gpt-4o-mini", CHAT_API_KEY=CANARY, CHAT_MAX_CONCURRENCY=3)
    set_all(monkeypatch, CHAT_2_MODEL="openai/mine", CHAT_2_API_BASE="http://127.0.0.1:1/v1", CHAT_2_INPUT_PRICE=0.5)
    set_all(monkeypatch, CHAT_2_CACHED_INPUT_PRICE=0.05, CHAT_2_OUTPUT_PRICE=2, CHAT_2_CONTEXT_TOKENS=8192)
    set_all(monkeypatch, CHAT_2_AUDIO="true", JUDGE_MODEL="openai/gpt-4o", JUDGE_API_KEY=CANARY)
    ended = app("models")
    names = re.findall(r"^\w+ \d: \S+", ended.out, re.MULTILINE)
    assert names == [
        "chat 1: openai/gpt-4o-mini",
        "chat 2: openai/mine",
        "embedding 1: offline/static",
        "judge 1: openai/gpt-4o",
    ]
    assert "canary" not in ended.out + ended.err
    first, second, *_ = map(lines_of, re.split(r"\n(?=\w+ \d: )", ended.out))
    assert (first["endpoint"].strip(), first["key"].strip()) == ("the provider's own", "set")
    assert re.match(r"[\d,]{6,} tokens at once", first["reads"])
    assert first["takes"].strip() == "text, a JSON schema, images"
    assert re.match(r"\$[\d.]+ input, \$[\d.]+ cached input, \$[\d.]+ output per million tokens", first["costs"])
    assert first["limits"].startswith("3 calls at a time;")
    assert (second["endpoint"].strip(), second["key"].strip()) == ("http://127.0.0.1:1/v1", "-")
    assert (second["reads"].strip(), second["takes"].strip()) == ("8,192 tokens at once", "text, audio")
    assert second["costs"].strip() == "$0.5 input, $0.05 cached input, $2 output per million tokens"


def test_models_stays_readable_on_a_narrow_terminal(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns are enough, nothing is cut off, and what is unknown comes with the variables to set."""
    set_all(monkeypatch, CHAT_MODEL="openai/mine", CHAT_API_BASE=LONG, COLUMNS=80)
    out = app("models").out
    assert max(map(len, out.splitlines())) <= 80
    assert LONG in re.sub(r"\s+", "", out)
    words = " ".join(out.split())
    assert "reads unknown: set CHAT_CONTEXT_TOKENS" in words
    assert "refused where a budget is set. Set CHAT_INPUT_PRICE and CHAT_OUTPUT_PRICE." in words


def test_models_check_calls_each_model_once(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the smallest request, fallbacks too; each says ok and how long it took."""
    with Provider() as provider:
        online = {"MODEL": "openai/test-model", "API_BASE": provider.url}
        set_all(
            monkeypatch, **{f"{place}_{name}": value for place in ("CHAT", "CHAT_2") for name, value in online.items()}
        )
        set_all(monkeypatch, EMBEDDING_MODEL="openai/test-embedding", EMBEDDING_API_BASE=provider.url)
        ended = app("models", "--check")
    assert ended.status == 0
    assert len(re.findall(r"^  check +ok, \d+ ms *$", ended.out, re.MULTILINE)) == 3
    assert [call.path for call in provider.requests] == ["/v1/chat/completions"] * 2 + ["/v1/embeddings"]
    assert provider.requests[0].body["max_tokens"] == 16


def test_models_check_says_what_is_wrong(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model that fails names the variable to look at, without the key; the others are called all the same."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with Provider() as provider:
        provider.then(Rejected(401, f"wrong key {CANARY}"), Hang(), Reply())
        set_all(monkeypatch, CHAT_MODEL="openai/a", CHAT_API_BASE=provider.url, CHAT_API_KEY=CANARY)
        set_all(monkeypatch, CHAT_2_MODEL="openai/b", CHAT_2_API_BASE=provider.url, CHAT_2_TIMEOUT_SECONDS=0.5)
        set_all(monkeypatch, CHAT_3_MODEL="openai/c", CHAT_3_API_BASE=nobody)
        set_all(monkeypatch, JUDGE_MODEL="openai/d", JUDGE_API_BASE=provider.url)
        ended = app("models", "--check")
    refused, slow, away, embedding, judge = re.findall(r"^  check +(.*?) *$", ended.out, re.MULTILINE)
    assert ended.status == 1
    assert "CHAT_API_KEY" in refused
    assert "canary" not in ended.out + ended.err
    assert slow == "no answer within CHAT_2_TIMEOUT_SECONDS (0.5)"
    assert "is CHAT_3_API_BASE right" in away
    assert embedding.startswith("ok, ")
    assert judge.startswith("ok, ")


def write(url: str, *inferences: Inference) -> None:
    """Put calls into the ledger."""

    async def written() -> None:
        async with connect(url) as database, database.across_tenants() as connection:
            await ledger.write(connection, inferences)

    asyncio.run(written())


def called(
    number: int, cost: int | None, *, days_ago: int = 0, tenant: str = "default", cached: bool = False
) -> Inference:
    """A call of the chat role, with one attempt or from the cache."""
    began = NOW - timedelta(days=days_ago)
    attempt = Attempt("openai/a-model", "ok", began, 20, Usage(1_000, 100), cost)
    return Inference(
        id=f"00000000-0000-0000-0000-{number:012}",
        request_id="",
        tenant=tenant,
        api_key_id="",
        role="chat",
        outcome="ok",
        started_at=began,
        duration_ms=20,
        cached="exact" if cached else "",
        saved_nanousd=cost if cached else None,
        attempts=() if cached else (attempt,),
    )


def test_costs_without_a_call(app: Command) -> None:
    """Nothing was spent, which is no error."""
    assert app("costs") == (0, "no model was called in this time", "")


def test_costs_are_added_up_by_day_role_and_model(app: Command, migrated_url: str) -> None:
    """Over all tenants, with a total; what is older than --days is left out, and what has no price is counted."""
    calls = [called(1, 1_000_000), called(2, 2_000_000, tenant="other"), called(3, None)]
    write(migrated_url, *calls, called(4, 5_000_000, days_ago=2), called(5, 7_000_000, days_ago=9))
    ended = app("costs")
    head, _, *rows, _, total, unknown, _ = map(str.split, ended.out.splitlines())
    today, before = (NOW.date() - timedelta(days=days) for days in (0, 2))
    assert (ended.status, ended.err) == (0, "")
    assert head == ["day,", "role", "model", "calls", "input", "output", "cost"]
    assert rows == [
        [str(before)],
        ["chat", "openai/a-model", "1", "1,000", "100", "$0.005000"],
        [str(today)],
        ["chat", "openai/a-model", "3", "3,000", "300", "$0.003000"],
        ["+", "1", "unknown"],
    ]
    assert (total, unknown) == (["total", "4", "4,000", "400", "$0.008000"], ["+", "1", "unknown"])
    assert ended.out.endswith("1 calls have no known price and are in no sum: `app models` names what to set")
    assert "$0.003000" in app("costs", "--days", "1").out
    assert "$0.005000" not in app("costs", "--days", "2").out


def test_costs_tells_what_the_cache_saved(app: Command, migrated_url: str) -> None:
    """A reply from the cache is no line of the table: it cost nothing."""
    write(migrated_url, called(1, 3_000_000), called(2, 3_000_000, cached=True), called(3, 3_000_000, cached=True))
    ended = app("costs")
    assert ended.out.splitlines()[-1] == "2 replies came from the cache and saved $0.006000"
    assert ended.out.count("openai/a-model") == 1


def test_costs_tells_how_much_of_a_budget_is_used(
    app: Command, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tenant's day alone counts, and only where a budget is set."""
    calls = [called(1, 250_000_000), called(2, 100_000_000, tenant="other"), called(3, 900_000_000, days_ago=1)]
    write(migrated_url, *calls)
    assert "today's" not in app("costs").out
    monkeypatch.setenv("TENANT_BUDGET_USD", "0.5")
    assert app("costs").out.splitlines()[-2:] == [
        "tenant default has used $0.250000 of today's $0.500000",
        "tenant other has used $0.100000 of today's $0.500000",
    ]


def test_costs_stays_readable_on_a_narrow_terminal(
    app: Command, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 columns are enough: an ordinary name is whole, and a long one goes on in the next line."""
    long, ordinary = "openai/an-organisation/a-model-with-a-very-long-name-v3", "bedrock/claude-haiku-5-5"
    attempt = Attempt(long, "ok", NOW, 20, Usage(1_234_567, 123_456), None)
    other = replace(attempt, model=ordinary, usage=Usage(7, 7))
    write(migrated_url, replace(called(1, 0), role="embedding", attempts=(attempt, other)))
    monkeypatch.setenv("COLUMNS", "80")
    out = app("costs").out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert re.search(rf"{ordinary} +1 +7 +7 ", out)
    assert re.sub(r"\s.*\n\s+", "", out[out.index("openai/") :], count=1).startswith(f"{long} ")
    assert "1,234,567" in out


def pairs(count: int, *, same: bool) -> str:
    """Labelled pairs: two ways to write a question, or two questions that have nothing in common."""
    made = (
        {"a": f"What is {n}?", "b": f"What is {n}? " if same else "Who rows boats?", "same": same} for n in range(count)
    )
    return "".join(f"{json.dumps(pair)}\n" for pair in made)


def test_cache_is_switched_on_where_it_was_measured_to_be_safe(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts, what they prove, and the limit are shown."""
    monkeypatch.setenv("SEMANTIC_CACHE_MAX_FALSE_HITS", "0.1")
    Path("pairs.jsonl").write_text(pairs(60, same=True) + pairs(60, same=False))
    ended = app("cache", "measure", "--route", "ask", "--threshold", "0.9", "--pairs", "pairs.jsonl")
    counted, proved, state = ended.out.splitlines()
    assert (ended.status, ended.err, state) == (0, "", "the semantic cache of ask is on")
    assert counted == (
        "at 0.9 with offline/static: 60 of 60 pairs that are the same would hit, 0 of 60 that are not would hit wrongly"
    )
    assert re.fullmatch(
        r"wrong hits: 0\.00%, and with 95 % certainty at most [\d.]+%; .*_FALSE_HITS allows 10\.00%", proved
    )


def test_cache_is_refused_where_too_little_is_proved(app: Command) -> None:
    """Ten pairs prove nothing: the cache stays off, and the status is 1."""
    Path("pairs.jsonl").write_text(pairs(5, same=True) + pairs(5, same=False))
    ended = app("cache", "measure", "--threshold", "0.9", "--pairs", "pairs.jsonl")
    assert (ended.status, ended.err) == (1, "")
    assert ended.out.splitlines()[-1].startswith("the semantic cache of ask is off: ")


def test_cache_can_be_switched_off(app: Command) -> None:
    """Off twice is off."""
    for _ in range(2):
        assert app("cache", "off") == (0, "the semantic cache of ask is off", "")


@pytest.mark.parametrize("command", [("measure", "--threshold", "0.9"), ("off",)])
def test_cache_refuses_a_route_that_nobody_has(app: Command, command: tuple[str, ...]) -> None:
    """What is switched would serve nobody; the error names the routes that there are."""
    assert app("cache", *command, "--route", "nope") == (2, "", "error: --route is 'nope'; it can be ask")


def test_cache_refuses_a_file_that_it_cannot_read(app: Command) -> None:
    """The error ends with 2 and names the file."""
    ended = app("cache", "measure", "--threshold", "0.9", "--pairs", "none.jsonl")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: the pairs none.jsonl cannot be read: ")
