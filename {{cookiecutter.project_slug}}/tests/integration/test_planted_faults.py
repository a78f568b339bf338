"""Faults planted in the pipeline, one at a time: each turns the gate red, and the reasons name what it broke.

A fault is a setting, or one function of the real pipeline replaced. A library of short documents is asked, offline;
the baseline is what the healthy pipeline says.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.datasets import corpus
from app.db.engine import Database, connect
from app.evals import runner
from app.evals.dataset import Case, Dataset, Evidence
from app.evals.gate import Baseline, Demand, Thresholds, Verdict, decide, load_thresholds, read_baseline, write_baseline
from app.evals.runs import Run
from app.gateway import offline
from app.gateway.gateway import Gateway
from app.rag import pipeline, rerank
from app.rag.citations import Check
from app.rag.indexing import Indexer
from app.settings import Settings
from app.types import Citation, Passage, RejectedCitation
from tests.conftest import PROJECT

# Each topic: what three sentences say, and a question that each of them answers.
LIBRARY = {
    "bread": {
        "A sourdough starter is fed with flour and water every morning and doubles in six hours in a warm kitchen.": (
            "How often does a sourdough starter need flour and water?"
        ),
        "Steam in the first ten minutes of baking keeps the crust soft, so that the loaf can still rise in the oven.": (
            "What is all that damp air good for when a boule goes in?"
        ),
        "Rye dough is sticky and hardly elastic, and it is therefore baked in a tin instead of being shaped by hand.": (
            "Why is rye bread baked in a tin?"
        ),
    },
    "bicycles": {
        "A bicycle chain is worn out when twelve links have stretched by more than one and a half millimetres.": (
            "How can I tell that a bicycle chain is worn out?"
        ),
        "Disc brakes stop as well in the rain as on dry roads, while rim brakes need twice the distance when wet.": (
            "What stops me best on my bike in bad weather?"
        ),
        "Tyres are pumped up more for a heavy rider, and less for gravel, where a soft tyre grips the loose ground.": (
            "Should I inflate less for unpaved trails?"
        ),
    },
    "bees": {
        "A honey bee colony keeps its brood at thirty-five degrees by shivering in winter and fanning in summer.": (
            "At what temperature does a colony of bees keep its brood?"
        ),
        "The waggle dance tells other bees the direction of flowers relative to the sun, and how far away they are.": (
            "What does the waggle dance of bees tell?"
        ),
        "A queen lives for up to five years, and a worker that hatches in June is dead after about six weeks.": (
            "What age does the mother of a hive reach?"
        ),
    },
    "tea": {
        "Green tea is brewed with water of seventy degrees, because boiling water draws out what makes it bitter.": (
            "Which temperature keeps sencha from getting harsh?"
        ),
        "Black tea owes its dark colour to the leaves being rolled and left to oxidise before they are dried.": (
            "What gives black tea its dark colour?"
        ),
        "Matcha is stone-ground from leaves that grew in the shade for three weeks before the harvest.": (
            "What kind of leaves is matcha ground from?"
        ),
    },
    "lighthouses": {
        "A Fresnel lens bends the light of a small lamp into one flat beam that ships see twenty miles away.": (
            "What does a Fresnel lens do in a lighthouse?"
        ),
        "Every lighthouse flashes in a rhythm of its own, which sailors look up in the list of lights.": (
            "How do sailors know which lighthouse they see?"
        ),
        "The last keepers left when the lamps were connected to sensors that switch them on at dusk.": (
            "Who made the people in those beacons redundant?"
        ),
    },
    "glaciers": {
        "Glacier ice is blue because air was pressed out of it under the weight of hundreds of years of snow.": (
            "Why is the ice of glaciers blue?"
        ),
        "A glacier slides on a film of meltwater at its bed, and moves fastest in the middle of the summer.": (
            "In which season do frozen rivers flow quickest?"
        ),
        "Moraines are walls of rubble that the ice pushed ahead of it, and they show how far it once reached.": (
            "What do moraines show about a glacier?"
        ),
    },
    "violins": {
        "The top of a violin is carved from spruce, which is light and stiff, and its back from maple.": (
            "What wood is the top of a violin carved from?"
        ),
        "The sound post is a small stick between top and back that carries vibration; without it the tone is thin.": (
            "Which part inside a fiddle gives it its full voice?"
        ),
        "A bow is strung with about one hundred and fifty hairs of a horse's tail, rubbed with rosin.": (
            "How many horse hairs are there in a bow?"
        ),
    },
    "elevators": {
        "A counterweight balances the cabin and half of its load, so that the motor lifts only the difference.": (
            "What is the counterweight of an elevator for?"
        ),
        "If the rope breaks, a governor notices the speed and wedges the cabin between its rails.": (
            "What happens if a cable of the lift snaps?"
        ),
        "Destination panels ask for the floor in the lobby and put people with the same floor into one car.": (
            "How do destination panels in the lobby group people?"
        ),
    },
    "coffee": {
        "Espresso is pressed through finely ground coffee at nine bars of pressure for twenty-five seconds.": (
            "How much pressure does espresso need?"
        ),
        "Roasted beans taste best between one and four weeks after roasting, and stale after three months.": (
            "Until when is my roast fresh?"
        ),
        "Decaffeinated coffee is made by steaming the green beans and washing the caffeine out with carbon dioxide.": (
            "How is coffee decaffeinated?"
        ),
    },
    "owls": {
        "The edge of an owl's wing feathers is fringed like a comb, which breaks up the air: its flight is silent.": (
            "What makes the flight of an owl silent?"
        ),
        "Owls cannot move their eyes, and turn their heads by up to two hundred and seventy degrees instead.": (
            "How far can owls turn their heads?"
        ),
        "A barn owl finds a mouse in full darkness because one of its ears sits higher than the other.": (
            "How do nocturnal birds of prey locate rodents?"
        ),
    },
    "paper": {
        "Paper turns yellow because the lignin that is left in cheap pulp reacts with light and air.": (
            "Why does cheap paper turn yellow?"
        ),
        "A sheet of A4 has sides in the ratio of the square root of two, so that half of it has the same shape.": (
            "What is the ratio of the sides of an A4 sheet?"
        ),
        "Fibres can be recycled about six times before they are too short to hold together as a sheet.": (
            "How often can old newspapers be used again?"
        ),
    },
    "tides": {
        "Spring tides come with the new and the full moon, when sun and moon pull along the same line.": (
            "When do spring tides come?"
        ),
        "In the Bay of Fundy the water rises by sixteen metres, because the bay swings in step with the tide.": (
            "By how many metres does the water rise in the Bay of Fundy?"
        ),
        "Tidal mills caught the rising water behind a gate and let it drive the wheel when the sea had fallen.": (
            "What was energy from the ocean used for in earlier days?"
        ),
    },
}
UNANSWERED = (
    "Who won the chess championship in Reykjavik?",
    "How do I renew a driving licence in Ohio?",
    "What is the boiling point of mercury?",
    "Which vaccine protects against shingles?",
    "How many seats does the parliament of Norway have?",
    "What does a mortgage adviser earn?",
    "Who painted the ceiling of the opera in Paris?",
    "How do I reset the password of my router?",
    "Which programming language has a borrow checker?",
    "When was the treaty of Utrecht signed?",
    "How tall is the tallest giraffe in captivity?",
    "What is the tax on imported wine in Chile?",
)

FORBIDDEN = "Success is guaranteed."
GATED = (
    *("recall@5", "ndcg@10", "evidence_recall", "citation_validity", "citation_precision", "cites_relevant"),
    *("answered", "abstained", "token_f1", "no_forbidden"),
)
THRESHOLDS = Thresholds(min_cases=40, max_error_rate=0, alpha=0.05, metrics=dict.fromkeys(GATED, Demand(margin=0.01)))
SHIPPED = load_thresholds(PROJECT / "evals/thresholds.toml").metrics
Plant = Callable[[pytest.MonkeyPatch], dict[str, object]]
"""Plants a fault and gives the settings that go with it."""


def cases() -> tuple[Case, ...]:
    """Every question of the library, and those that it does not answer."""
    asked = [
        Case(
            id=f"{topic}-{number}",
            split="gate",
            question=question,
            answerable=True,
            relevant={f"library/{topic}.md": 1},
            evidence=(Evidence(document=f"library/{topic}.md", quote=sentence),),
            reference=sentence,
            forbidden=(FORBIDDEN,),
        )
        for topic, sentences in LIBRARY.items()
        for number, (sentence, question) in enumerate(sentences.items())
    ]
    others = [
        Case(id=f"other-{number}", split="gate", question=question, answerable=False, forbidden=(FORBIDDEN,))
        for number, question in enumerate(UNANSWERED)
    ]
    return (*asked, *others)


@dataclass(frozen=True)
class Library:
    """The documents in a folder, and a pipeline over them."""

    database: Database
    settings: Settings

    async def ask(self, **changed: object) -> Run:
        """Put every question to the pipeline, with these settings changed; none of them is validated."""
        settings = self.settings.model_copy(update=changed)
        dataset = Dataset("library", cases(), "hash")
        return await runner.run(dataset, [Path("library")], self.database, Gateway(settings), settings)


@pytest.fixture(scope="module")
async def library(migrated_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Library]:
    """Twelve documents, of which the model reads four; questions in other words than theirs need the vectors more."""
    home = tmp_path_factory.mktemp("planted")
    (home / "library").mkdir()
    for topic, sentences in LIBRARY.items():
        text = f"# {topic.title()}\n\n{' '.join(sentences)}\n"
        (home / "library" / f"{topic}.md").write_text(text, encoding="utf-8")
    settings = Settings(database_url=migrated_url, data_dir=home, passages=4, dense_weight=0.6)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        async with connect(migrated_url) as database:
            yield Library(database, settings)


@pytest.fixture(scope="module")
async def baseline(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    """What the healthy pipeline says, written and read back."""
    path = tmp_path_factory.mktemp("baseline") / "baseline.json"
    write_baseline(await library.ask(), THRESHOLDS, path)
    return read_baseline(path)


def broken_chunking(patch: pytest.MonkeyPatch) -> dict[str, object]:
    """Chunks are cut at forty characters, in the middle of sentences."""
    patch.setattr(corpus, "TENANT", "broken-chunking")
    return {"chunk_characters": 40}


def swapped_embeddings(patch: pytest.MonkeyPatch) -> dict[str, object]:
    """Each chunk gets the vector of the next one."""
    patch.setattr(corpus, "TENANT", "swapped-embeddings")
    embed = Indexer._embed

    async def swapped(self: Indexer, texts: Sequence[str]) -> list[Sequence[float]]:
        vectors = await embed(self, texts)
        return [*vectors[1:], *vectors[:1]]

    patch.setattr(Indexer, "_embed", swapped)
    return {}


def reversed_reranker(patch: pytest.MonkeyPatch) -> dict[str, object]:
    """What fits best comes last: a distance that is taken for a likeness."""

    async def distances(_: str, passages: Sequence[Passage], **__: object) -> list[float]:
        return [-passage.score for passage in passages]

    patch.setitem(rerank.RERANKERS, "cross-encoder", distances)
    return {"rerank": "cross-encoder"}


def change_citations(patch: pytest.MonkeyPatch, change: Callable[[Check, Citation], Citation]) -> None:
    """Let the check give another citation than the one that it found."""
    check = Check.__call__

    def changed(self: Check, marker: int, quote: str) -> Citation | RejectedCitation:
        found = check(self, marker, quote)
        return change(self, found) if isinstance(found, Citation) else found

    patch.setattr(Check, "__call__", changed)


def citations_one_character_off(patch: pytest.MonkeyPatch) -> dict[str, object]:
    """A quote is said to stand one character after its place."""
    change_citations(patch, lambda _, found: replace(found, start=found.start + 1, end=found.end + 1))
    return {}


def citations_one_passage_off(patch: pytest.MonkeyPatch) -> dict[str, object]:
    """The passage after the one that was meant is cited, with words of its own: nothing about it is invalid."""

    def following(check: Check, found: Citation) -> Citation:
        passage = check._passages[found.marker % len(check._passages)]
        start, end = passage.start, passage.start + 40
        return replace(found, source=passage.source, quote=passage.text[:40], start=start, end=end)

    change_citations(patch, following)
    return {}


def prompt_without_context(patch: pytest.MonkeyPatch) -> dict[str, object]:
    """The passages are left out of the prompt."""
    patch.setattr(pipeline, "fence", lambda _: "")
    return {}


def abstention_off(_: pytest.MonkeyPatch) -> dict[str, object]:
    """Anything is good enough for an answer."""
    return {"abstain_below": 0.0}


def forbidden_promise(patch: pytest.MonkeyPatch) -> dict[str, object]:
    """The model adds what nobody said."""
    extract = offline.extract
    patch.setattr(offline, "extract", lambda *given, **named: f"{extract(*given, **named)} {FORBIDDEN}")
    return {}


FAULTS: dict[Plant, set[str]] = {
    broken_chunking: {"evidence_recall", "citation_precision", "token_f1"},
    swapped_embeddings: {"ndcg@10"},
    reversed_reranker: {"recall@5", "ndcg@10", "evidence_recall", "answered"},
    citations_one_character_off: {"citation_validity"},
    citations_one_passage_off: {"citation_precision", "cites_relevant"},
    prompt_without_context: {"answered"},
    abstention_off: {"abstained"},
    forbidden_promise: {"no_forbidden", "token_f1"},
}


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
async def test_a_fault_turns_the_gate_red_and_is_named(
    library: Library, baseline: Baseline, monkeypatch: pytest.MonkeyPatch, plant: Plant
) -> None:
    """Just the metrics that the fault spoils are lost, so that the reasons lead to it."""
    run = await library.ask(**plant(monkeypatch))
    decision = decide(run, THRESHOLDS, baseline)
    lost = {metric for metric in GATED if any(why.startswith(f"{metric} went from ") for why in decision.reasons)}
    assert lost == FAULTS[plant]
    assert lost & SHIPPED.keys()
    assert decision.verdict is Verdict.WORSE


@pytest.mark.parametrize("changed", [{}, {"dense_weight": 0.5}], ids=["nothing", "a-weight"])
async def test_what_does_no_harm_passes(library: Library, baseline: Baseline, changed: dict[str, object]) -> None:
    """The healthy pipeline again, and one that searches a little differently; every metric has room to fall."""
    run = await library.ask(**changed)
    assert decide(run, THRESHOLDS, baseline).verdict is Verdict.PASS
    assert min(run.means()[metric] for metric in GATED) > 0.6
