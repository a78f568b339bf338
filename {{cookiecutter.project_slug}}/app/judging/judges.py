"""Judges: the judge role decides one question about an answer, pass or fail, and gives its reason first.

A judge is a prompt in `app/prompts/` and its name in JUDGES. Which of two answers is better is asked in both orders.
What was said is kept, so that a rerun is free. Knows nothing of gates, nor how far people agree with a judge.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from typing import Any, Literal, TypeVar

import structlog
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from app.errors import ConfigurationError, DeploymentBusy, InvalidInput, ProviderError, ProviderMisconfigured
from app.evals import TENANT
from app.evals.dataset import Case
from app.evals.runs import Run
from app.evals.statistics import Interval, interval
from app.gateway.cache import digest
from app.gateway.gateway import Gateway
from app.gateway.structured import parse
from app.judging.pace import Pace
from app.prompts.fence import fence, neutral
from app.prompts.loader import load_prompt
from app.types import Answer, Message

log = structlog.get_logger(__name__)

AT_A_TIME = 8
# The others would fail alike: a model is busy when it failed so often that the gateway leaves it alone for a while.
HITS_EVERY_CALL = (ProviderMisconfigured, DeploymentBusy)

Said = TypeVar("Said", bound=BaseModel)
Given = TypeVar("Given")
LINE = TypeAdapter(tuple[str, dict[str, Any]])
"""The hash of what was asked, and what was said to it."""


class Verdict(BaseModel):
    """What a judge says of one answer."""

    reason: str = Field(description="written before the verdict")
    passed: bool


class Choice(BaseModel):
    """Which of two answers is better."""

    reason: str = Field(description="written before the choice")
    better: Literal["first", "second", "tie"]


@dataclass(frozen=True, slots=True)
class Judge:
    """`prompt` is the name of its file."""

    name: str
    prompt: str

    @property
    def prompt_hash(self) -> str:
        """With another prompt it is another judge."""
        return load_prompt(self.prompt).content_hash

    @property
    def needs(self) -> set[str]:
        """What its prompt shows, of question, answer, passages and reference."""
        return {name for _, text in load_prompt(self.prompt).sections for name in Template(text).get_identifiers()}


JUDGES = {name: Judge(name, f"judge-{name}") for name in ("groundedness", "correctness", "helpfulness", "safety")}


class VerdictCache:
    """What judges said, by the hash of all that they were asked: one a line of `path`, or kept in memory alone.

    Each call waits for its turn in `pace`. Belongs to one event loop.
    """

    def __init__(self, path: Path | None, pace: Pace | None = None) -> None:
        self._path, self._pace = path, pace or Pace()
        self._known: dict[str, dict[str, Any]] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        for line in path.read_bytes().split(b"\n") if path and path.exists() else ():
            with suppress(ValidationError):  # cut short, by what ended the run
                key, said = LINE.validate_json(line)
                self._known[key] = said

    async def once(self, key: str, schema: type[Said], ask: Callable[[], Awaitable[Said]]) -> Said:
        """What was said to this before, or else now; whoever asks the same meanwhile waits for it."""
        async with self._turns[key]:
            if key not in self._known:
                await self._pace.turn()
                self._known[key] = (await ask()).model_dump()
                self._write(LINE.dump_json((key, self._known[key])))
            return schema.model_validate(self._known[key])

    def _write(self, line: bytes) -> None:
        """Where that fails, the next run pays once more; this one has its verdict."""
        if not self._path:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(b"\n" + line)  # the break comes first, and so ends a line that was cut short
        except OSError as error:
            log.warning("a verdict was not kept", path=str(self._path), reason=error.strerror or str(error))


def judge_model(gateway: Gateway) -> str:
    """Who judges: no other role's model stands in.

    Raises:
        ConfigurationError: nobody does, or a model that cannot.

    """
    deployment = gateway.deployments("judge")[0]
    if deployment.is_offline:
        raise ConfigurationError(f"{deployment.model} quotes and cannot judge: set JUDGE_MODEL to a language model")
    return deployment.model


async def judge(one: Judge, case: Case, answer: Answer, *, gateway: Gateway, cache: VerdictCache) -> Verdict | None:
    """What the judge says; None where it does not apply: to an abstention, or without a reference that it needs.

    Raises:
        ProviderError: there is no verdict, and no 0 either: the measurement failed.
        ConfigurationError: nobody can judge.
        BudgetExceeded: nothing is left for today.

    """
    if answer.abstained or ("reference" in one.needs and not case.reference):
        return None
    read = [passage for passage in answer.passages if passage.use != "found"]
    shown = {"question": case.question, "answer": answer.text, "reference": case.reference}
    fenced = {name: neutral(text) for name, text in shown.items()} | {"passages": fence(read)}
    return await _ask(load_prompt(one.prompt).messages(**fenced), Verdict, gateway, cache)


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two answers is better; `flipped` where their order made a difference, which makes it a tie."""

    better: Literal["first", "second", "tie"]
    flipped: bool


async def prefer(question: str, first: str, second: str, *, gateway: Gateway, cache: VerdictCache) -> Preference:
    """Ask in both orders; only agreement counts. Raises as `judge`.

    For position bias and this remedy see Zheng and others, "Judging LLM-as-a-Judge with MT-Bench", 2023.
    """
    if first == second:
        return Preference("tie", flipped=False)
    prompt, texts = load_prompt("judge-preference"), [neutral(text) for text in (question, first, second)]
    orders = [prompt.messages(question=texts[0], first=texts[one], second=texts[3 - one]) for one in (1, 2)]
    here, there = await asyncio.gather(*(_ask(messages, Choice, gateway, cache) for messages in orders))
    flipped = {here.better, there.better} not in ({"first", "second"}, {"tie"})
    return Preference("tie" if flipped else here.better, flipped)


@dataclass(frozen=True, slots=True)
class Preferences:
    """Which of two answers was better, over `pairs`; `flips` is the share of pairs whose order made a difference.

    `second` is the share that the second won, a tie being half a win: where the whole interval lies above a half, the
    second is better. `failed` are pairs that were not compared.
    """

    pairs: int
    failed: int
    flips: float
    second: Interval


async def prefer_runs(first: Run, second: Run, *, gateway: Gateway, cache: VerdictCache) -> Preferences:
    """Which run's answers are better, over the cases that both answered; of several attempts the first counts.

    Raises:
        InvalidInput: no case was answered in both and compared.
        AppError: no pair could be compared, as with `each`.

    """
    here, there = ({r.case.id: r.answer for r in reversed(run.results) if r.answer} for run in (first, second))
    jobs = [
        partial(prefer, here[one].question, here[one].text, there[one].text, gateway=gateway, cache=cache)
        for one in sorted(here.keys() & there.keys())
    ]
    said = await each(jobs)
    preferred = [one for one in said if isinstance(one, Preference)]
    if not preferred:
        raise InvalidInput(f"no answers were compared: {said[0] if said else 'no case was answered in both runs'}")
    won = {"first": 0.0, "tie": 0.5, "second": 1.0}
    second_won = interval({str(number): [won[one.better]] for number, one in enumerate(preferred)})
    flips = sum(one.flipped for one in preferred) / len(preferred)
    return Preferences(len(preferred), len(said) - len(preferred), flips, second_won)


async def each(jobs: Sequence[Callable[[], Awaitable[Given]]]) -> list[Given | ProviderError]:
    """What each job gives, AT_A_TIME of them at once; of one that fails by itself, the error.

    Raises:
        AppError: the others would fail of it too.

    """
    turns = asyncio.Semaphore(AT_A_TIME)

    async def one(job: Callable[[], Awaitable[Given]]) -> Given | ProviderError:
        async with turns:
            try:
                return await job()
            except HITS_EVERY_CALL:
                raise
            except ProviderError as error:
                return error

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(job)) for job in jobs]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _ask(messages: list[Message], schema: type[Said], gateway: Gateway, cache: VerdictCache) -> Said:
    """Ask the judge role, unless this was asked before."""
    parameters = {"temperature": 0, "max_tokens": gateway.settings.max_output_tokens}
    key = digest([judge_model(gateway), messages, schema.model_json_schema(), parameters])

    async def ask() -> Said:
        context = gateway.context(tenant=TENANT)
        parsed = await parse(gateway, messages, schema, role="judge", context=context, parameters=parameters)
        return parsed.value

    return await cache.once(key, schema, ask)
