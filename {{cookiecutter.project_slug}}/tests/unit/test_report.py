"""Reports: what they say of a run, that hostile content stays content, and that they stay small, quick and readable."""

import json
import re
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from app.evals.dataset import Case
from app.evals.evaluators import EVALUATORS, Evaluator
from app.evals.gate import Baseline, Decision, Demand, Thresholds, Verdict, decide
from app.evals.runs import CaseResult, Configuration, Run, read_run
from app.reports import figures, html, report
from app.types import Answer, Citation, Passage, RejectedCitation, Usage

HOSTILE = (
    """<script>alert(1)</script> "quoted" 'single' & `tick` | pipe [red]markup[/red] @team \u202eto\nleft \ud800"""
)
MADE = Configuration(
    name="now",
    dataset="guide",
    dataset_hash="d" * 64,
    split="gate",
    documents_hash="e" * 64,
    chat_model="offline/extractive",
    embedding_model="offline/static",
    judge_model="",
    settings={"PASSAGES": "4"},
    prompts={"answer": "a" * 64},
    revision="0123456789ab",
)
PASSAGE = Passage(1, "a.md", "A", "Rivers", 0, 22, "Rivers run to the sea.", score=1.0, use="cited")
ANSWER = Answer(
    id="1",
    question="?",
    text="To the sea. [1] Not [2].",
    abstained=False,
    model="offline/extractive",
    notice="",
    prompt_hash="p",
    usage=Usage(100, 20),
    cost_nanousd=2_000_000,
    latency_ms=40,
    citations=(Citation(1, 1, "a.md", "A", "Rivers", "run to the sea", 7, 21),),
    rejected=(RejectedCitation(3, "uphill", "fabricated"),),
    passages=(PASSAGE, replace(PASSAGE, source="b.md", use="read"), replace(PASSAGE, source="c.md", use="found")),
)
THRESHOLDS = Thresholds(
    min_cases=1,
    max_error_rate=1,
    metrics={"answered": Demand(at_least=0.5, margin=0), "latency_ms": Demand(at_most=90)},
)
ELEMENTS = """html head meta title style body header h1 h2 h3 nav a main section p ul ol li div table caption thead
tbody tr th td span small svg line circle rect figure figcaption details summary code dl dt dd mark blockquote b"""
ATTRIBUTES = """lang charset name content http-equiv class id href aria-label aria-hidden role tabindex scope height
width x y x1 x2 y1 y2 cx cy r dir"""
NONE = Decision(Verdict.PASS)


def case(number: int, *tags: str, **fields: str) -> Case:
    """An answerable question."""
    given = {"id": f"case-{number}", "question": f"Where does river {number} run?", "reference": "To the sea."} | fields
    return Case(split="gate", answerable=True, tags=tags, **given)


def result(number: int, *tags: str, attempt: int = 0, answer: Answer = ANSWER, **scores: float) -> CaseResult:
    """A case that was answered."""
    return CaseResult(case(number, *tags), attempt, answer, scores=scores)


def run_of(*results: CaseResult, **changed: object) -> Run:
    """A run with these results."""
    return Run("run-1", "2026-01-01T00:00:00+00:00", replace(MADE, **changed), results)  # type: ignore[arg-type]  # of MADE


def before(**scores: list[list[float]]) -> Baseline:
    """A baseline with these scores of the cases from 0 on."""
    count = len(next(iter(scores.values())))
    return Baseline(MADE, {f"case-{n}": {metric: of[n] for metric, of in scores.items()} for n in range(count)})


@cache
def fell(cases: int = 40) -> tuple[Run, Decision, Baseline]:
    """A run in which three of four cases that were answered no longer are."""
    run = run_of(*(result(n, "short", answered=float(n % 4 == 0), latency_ms=40.0) for n in range(cases)))
    baseline = before(answered=[[1.0]] * cases, latency_ms=[[40.0]] * cases)
    return run, decide(run, THRESHOLDS, baseline), baseline


def shown(what: RenderableType, width: int = 80) -> str:
    """What a terminal without colour shows."""
    console = Console(width=width, color_system=None, record=True)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


class Page(HTMLParser):
    """What a page is made of: its elements with their attributes, and its text; every element is closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It closes what was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Remember it, without the style."""
        self.text += data if "style" not in self.open else ""

    def names(self) -> Counter[str]:
        """How often each element is there."""
        return Counter(name for name, _ in self.elements)


def test_a_page_has_the_verdict_first_and_everything_below_it() -> None:
    """Reasons, scores with interval, demand, baseline and change, slices, time, cases and what it was made with."""
    run, decision, baseline = fell()
    page = Page(html.page([run], decision, baseline))
    assert decision.verdict is Verdict.WORSE
    assert page.text.index("worse than the gate allows") < page.text.index("answered is 0.25, below 0.5")
    row = ["answered", "too low", "0.250", "0.142 to 0.402", ">= 0.500", "40", "1.000", "-0.750"]
    assert figures.score_grid(run, decision).rows[0][:8] == row
    for expected in (*row, "20 of 30 cases are shown", "answered 1 to 0", "p95", "PASSAGES"):
        assert expected in page.text
    assert page.open == ["html", "body"]
    assert not {"script", "link", "img", "iframe", "object"} & set(page.names())


def test_a_page_can_be_read_without_eyes_or_a_mouse() -> None:
    """Headings go down one step at a time, each table has a caption and names its rows, each chart has words."""
    page = Page(html.page([fell()[0]], fell()[1]))
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels == [1] + [2] * (len(levels) - 1)
    names = page.names()
    assert names["table"] == names["caption"] > 4
    assert all(of["scope"] in {"row", "col"} for name, of in page.elements if name == "th")
    assert all(of.get("aria-hidden") or of.get("aria-label") for name, of in page.elements if name == "svg")
    anchors = [of["href"] for name, of in page.elements if name == "a"]
    assert anchors == [f"#{of['id']}" for name, of in page.elements if name == "h2"]


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_have_enough_contrast(scheme: int) -> None:
    """Every colour of text is at least 4.5 to 1 against the paper, in the light and in the dark (WCAG 2.2, 1.4.3)."""
    style = html.STYLE.read_text("utf-8")
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]
    colours = {name: of * (6 // len(of)) for name, of in re.findall(r"--(\w+): #(\w+);", block)}

    def luminance(name: str) -> float:
        parts = [int(colours[name][n : n + 2], 16) / 255 for n in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for name in ("ink", "quiet", "accent", "bad", "good"):
        low, high = sorted((luminance(name), luminance("paper")))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def hostile(text: str) -> Run:
    """A run in which everything that others wrote is this text."""
    passage = replace(PASSAGE, source=text, heading=text, text=text)
    citation = replace(ANSWER.citations[0], source=text, quote=text)
    answer = replace(ANSWER, text=text, reason=text, abstained=True, citations=(citation,), passages=(passage,))
    whole = text.encode("utf-8", "replace").decode()  # a dataset is UTF-8; what models say need not be
    asked = case(1, whole, id=whole or "1", question=whole or "?", reference=whole or "x")
    scored = CaseResult(
        asked, 0, answer, scores={"answered": 0.0}, failed={"judge:tone": text}, reasons={"judge:x": text}
    )
    lost = CaseResult(case(2, id=whole + "2", question=whole or "?"), 0, None, error=text)
    return run_of(scored, lost, name=text, chat_model=text, settings={"S": text}, dataset=text)


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(codec=None), max_size=30) | st.just(HOSTILE))
def test_whatever_others_wrote_is_text_and_never_markup(text: str) -> None:
    """A page of any content has the elements of a harmless one, no other attributes, and can be written."""
    decision = Decision(Verdict.CANNOT_JUDGE, (text,), advisory={"answered": text})
    for pages in ([hostile(text)], [hostile(text), hostile("x")]):
        page = Page(html.page(pages, decision))
        html.page(pages, decision).encode()
        assert set(page.names()) <= set(ELEMENTS.split())
        assert {key for _, of in page.elements for key in of} <= set(ATTRIBUTES.split())


def test_text_is_whole_until_it_is_too_long() -> None:
    """What was written can be read, in its own direction; of 100 kB the beginning is shown, with the length."""
    answer = replace(ANSWER, text=f"{HOSTILE[:-1]} [1] {'long ' * 20_000}")
    page = html.page([run_of(result(1, answer=answer, answered=0.0))])
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &quot;quoted&quot;" in page
    assert '<p class="text" dir="auto">&lt;script' in page
    assert "(100,0" in page
    assert len(page) < 30_000


def test_a_case_shows_all_there_is_to_judge_it_by() -> None:
    """Citations are marked where the answer has them; passages say what became of them; judges give their reasons."""
    one = replace(result(1, answered=0.0), reasons={"judge:tone": "It is rude."}, failed={"judge:x": "no verdict"})
    many = replace(ANSWER, passages=(PASSAGE,) * 15, abstained=True, reason="nothing fits")
    page = html.page([run_of(one, result(2, answer=many, answered=0.0), CaseResult(case(3), error="no model"))])
    assert "To the sea. <mark>[1]</mark> Not [2]." in page
    assert "[1] a.md: run to the sea" in Page(page).text
    assert "[3] refused as fabricated: uphill" in page
    assert all(f"<li><b>{use}</b> {source}, Rivers" in page for use, source in zip(*USES, strict=True))
    for expected in (
        "judge:tone: It is rude.",
        "judge:x: no verdict",
        "It abstained: nothing fits",
        "3 more were found",
    ):
        assert expected in page
    assert Page(page).text.count("no model") == 3  # in the list of errors, in the case's line and within it


USES = (("cited", "read", "found"), ("a.md", "b.md", "c.md"))


def test_the_worst_cases_come_first_and_so_many_are_shown() -> None:
    """By the demanded metrics and the judges' alone, an error before all; a case without a fault is not there."""
    good, bad = result(0, answered=1.0, exact_match=0.0), result(1, answered=0.0)
    half = replace(result(2), scores={"answered": 1.0, "judge:tone": 0.0})
    lost, slow = CaseResult(case(3), error="x"), replace(result(1, answered=1.0), attempt=1)
    run = run_of(good, half, slow, bad, lost)
    metrics = figures.telling([run], Decision(Verdict.PASS, thresholds=THRESHOLDS))
    assert metrics == ["answered", "judge:tone"]
    assert figures.worst(run, metrics) == [bad, lost, half]
    assert figures.telling([run]) == ["answered", "exact_match", "judge:tone"]
    many = run_of(*(result(n, answered=0.0) for n in range(30)))
    page = Page(html.page([many]))
    assert page.names()["details"] == html.IN_FULL
    assert "20 of 30 cases are shown" in page.text


def test_a_metric_says_how_it_stands_with_the_gate() -> None:
    """Beyond a limit, worse than the baseline, only advising, or in order; what is not demanded says nothing."""
    metrics = {"answered": Demand(at_least=0.5), "latency_ms": Demand(at_most=9), "cites_relevant": Demand(margin=0)}
    asked = Thresholds(min_cases=1, max_error_rate=1, metrics=metrics | {"judge:tone": Demand(at_least=1)})
    scores = {"answered": 1.0, "latency_ms": 40.0, "cites_relevant": 0.0, "judge:tone": 0.0, "recall@5": 1.0}
    run = run_of(*(replace(result(n), scores=scores) for n in range(20)))
    decision = decide(run, asked, before(cites_relevant=[[1.0]] * 20), {"judge:tone": "kappa 0.1"})
    grid = figures.score_grid(run, decision)
    assert {row[0]: row[1] for row in grid.rows} == {
        "answered": "ok",
        "latency_ms": "too high",
        "cites_relevant": "worse",
        "judge:tone": "advisory",
        "recall@5": "",
    }
    nearly = run_of(result(1, answered=0.4999))
    assert figures.score_grid(nearly, decision).rows[0][1:3] == ["too low", "0.500"]
    assert [chart is None for chart in grid.charts] == [False, True, False, False, False]
    assert "judge:tone advises and does not gate: kappa 0.1" in html.page([run], decision)


def test_a_chart_marks_mean_interval_limit_and_baseline() -> None:
    """Everything is on one axis from 0 to 1."""
    run, decision, _ = fell()
    chart = html.page([run], decision).split('<svg class="chart"')[1].split("</svg>")[0]
    assert '<line class="limit" x1="50.00%" x2="50.00%"' in chart
    assert '<circle class="before" cx="100.00%"' in chart
    assert '<line class="whisker" x1="14.19%" x2="40.19%"' in chart
    assert '<circle class="dot run-1" cx="25.00%"' in chart


def test_a_histogram_of_the_latency_has_a_logarithmic_axis() -> None:
    """Of 10, 100 and 1,000 ms the one in the middle is in the middle; a single answer is no division by zero."""
    times = [result(n, answer=replace(ANSWER, latency_ms=10**n)) for n in (1, 2, 3)]
    chart = html.page([run_of(*times)]).split('<svg class="histogram"')[1]
    assert "least 10 ms, p50 100 ms, p95 910 ms, most 1,000 ms" in chart
    assert '<line class="limit" x1="50.00%" x2="50.00%"' in chart
    assert chart.count(' height="100.00%"') == 3
    assert "p95 40 ms" in html.page([run_of(result(1))])


def test_a_case_that_got_worse_shows_its_worst_attempt() -> None:
    """The case in which most got worse is the first, and it is not shown again among the others."""
    attempts = [
        replace(result(1, answered=float(n != 1)), attempt=n, reasons={"judge:x": f"try {n}"}) for n in range(3)
    ]
    both = result(2, answered=0.0, latency_ms=80.0)
    run = run_of(*attempts, both, repeats=3)
    was = before(answered=[[1.0]] * 3, latency_ms=[[40.0]] * 3)
    decision = decide(run, THRESHOLDS, replace(was, cases={one: was.cases[one] for one in ("case-1", "case-2")}))
    page = Page(html.page([run], decision))
    assert list(figures.changes(decision)) == ["case-2", "case-1"]
    assert ("try 1" in page.text, "try 0" in page.text, page.names()["details"]) == (True, False, 2)


def test_less_is_better_where_an_evaluator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of what should not be there is a fault, and none of it is not."""
    rare = Evaluator("invented", lambda *_: 0.0, higher_is_better=False)
    monkeypatch.setitem(EVALUATORS, "invented", rare)
    assert figures.faults(result(1, invented=0.25), ["invented"]) == {"invented": 0.25}
    assert figures.worst(run_of(result(1, invented=0.0)), ["invented"]) == []


def test_small_slices_are_faint() -> None:
    """A tag with fewer than ten cases that a metric applies to says little."""
    many = [result(n, "long", answered=1.0) for n in range(10)]
    grid = figures.slices(run_of(*many, result(10, "short", answered=0.0), result(11, "other")), ["answered"])
    assert [row[:2] for row in grid.rows] == [["long", "10"], ["other", "1"], ["short", "1"]]
    assert [type(row[2]) for row in grid.rows] == [str, figures.Faint, figures.Faint]
    assert grid.rows[0][2] == "1.000\n0.722 to 1.000, n 10"
    assert grid.rows[1][2] == ""


def test_cost_is_unknown_where_a_price_is() -> None:
    """A sum that leaves calls out would mislead; without an answer there is nothing to add up."""
    dear = result(2, answer=replace(ANSWER, cost_nanousd=4_000_000, latency_ms=60))
    grid = figures.consumption(run_of(result(1), dear))
    assert grid.rows[0] == ["latency, ms", "50", "59", "50", "100"]
    assert grid.rows[1] == ["input tokens", "100", "100", "100", "200"]
    assert grid.rows[3] == ["cost, USD", "0.003000", "0.003900", "0.003000", "0.006000"]
    unknown = result(3, answer=replace(ANSWER, cost_nanousd=None))
    assert figures.consumption(run_of(dear, unknown)).rows[3][1] == "price unknown for 1 of 2 answers"
    assert figures.consumption(run_of()).rows == []
    assert "What the answers took: none" in html.page([run_of()])


def test_repeats_say_how_steady_the_answers_are() -> None:
    """pass@k and pass^k where scores are 0 or 1; the spread of each case; cases that lack an attempt are left out."""
    attempts = [result(n, attempt=k, answered=float(k < n), token_f1=k / 4) for n in (0, 1, 2) for k in (0, 1)]
    grid = figures.repeats(run_of(*attempts, result(3, answered=0.0, abstained=1.0), repeats=2))
    assert grid.head[1:3] == ("pass@2", "pass^2")
    answered, f1 = grid.rows
    assert answered == ["answered", "0.667", "0.333", "0.333", "1 of 3", "case-1 1.000"]
    assert f1[:5] == ["token_f1", "", "", "0.250", "3 of 3"]
    assert "2 attempts at each case" in html.page([run_of(*attempts, repeats=2)])
    assert "attempts at each case;" not in html.page([run_of(*attempts)])


def test_errors_and_failed_measurements_are_listed_up_to_a_number() -> None:
    """Which case, which attempt, what and why."""
    failed = replace(result(1), failed={"judge:tone": "no\nverdict"})
    run = run_of(failed, CaseResult(case(2), 1, error="no model"))
    assert "2 errors and failed measurements, the first in case-2" in report.markdown(run, NONE)
    grid = figures.troubles(run)
    assert grid.rows == [["case-2", "2", "no answer", "no model"], ["case-1", "1", "judge:tone", "no verdict"]]
    many = figures.troubles(run_of(*(CaseResult(case(n), error="x") for n in range(60))))
    assert (len(many.rows), many.caption.endswith("50 of 60 shown")) == (50, True)


def test_runs_are_compared_with_the_first() -> None:
    """Runs as columns, differences over the cases that both measured, a star where they are sure; what differs."""
    first = run_of(*(result(n, answered=1.0, latency_ms=40.0) for n in range(20)))
    second = run_of(*(result(n, answered=float(n > 8)) for n in range(20)), name="", settings={"PASSAGES": "9"})
    grid = figures.contrast_grid([first, second])
    assert grid.head == ("metric", "A now", "B offline/extractive")
    assert grid.rows[0] == ["answered", "1.000", "0.550\n-0.450 *\n-0.633 to -0.185"]
    assert grid.rows[1] == ["latency_ms", "40", ""]
    source = html.page([first, second])
    page = Page(source)
    assert source.count('class="dot run-2"') == 1
    assert page.names()["details"] == 9
    assert "9 of 9 cases are shown" in page.text
    assert page.text.index("case-0") < page.text.index("case-8")
    assert source.count('<td class="bad">') == 4  # the name and a setting, in both columns
    assert "-0.450 *" in shown(report.comparison_table([first, second]))


def test_the_terminal_shows_it_at_80_columns_without_colour() -> None:
    """No metric is cut, no line is wider, markup is text, and what is wrong is said in words."""
    run, _, baseline = fell()
    long = run_of(
        *(replace(r, scores={**r.scores, "citation_precision": 0.5, "judge:groundedness": 1.0}) for r in run.results)
    )
    decision = decide(long, THRESHOLDS, baseline)
    text = shown(report.table(long, replace(decision, reasons=(HOSTILE + "\x1b[31m",))))
    assert max(map(len, text.splitlines())) <= 80
    assert "worse than the gate allows" in text
    assert re.search(r"answered +too low +0.250 +0.142 to 0.402 +>= 0.500", text)
    assert "citation_precision " in text
    assert "judge:groundedness " in text
    assert "[red]markup[/red]" in text
    assert not re.search("[\x1b\u202e\ud800]", text)
    assert "citation_precision " in shown(report.table(long, decision), 60)
    assert "case-1: answered 1 to 0" in text
    assert "and 20 more cases got worse" in text


def test_colour_marks_what_is_wrong() -> None:
    """Red, where there is colour."""
    run, decision, _ = fell()
    console = Console(width=80, force_terminal=True, color_system="standard")
    with console.capture() as captured:
        console.print(report.table(run, decision))
    assert "\x1b[31mtoo low\x1b[0m" in captured.get()


def test_markdown_says_the_verdict_first_and_folds_what_got_worse() -> None:
    """A table of the scores, then the cases with before and after."""
    run, decision, _ = fell()
    lines = report.markdown(run, decision).splitlines()
    assert lines[0] == "### worse than the gate allows&#58; guide, offline/extractive with offline/static"
    assert lines[2] == "- " + decision.reasons[0].replace("_", "&#95;")
    row = "| answered | too low | 0.250 | 0.142 to 0.402 | &#62;= 0.500 | 1.000 | -0.750 | &#60;0.001 | 0.170 | 40 |"
    assert row in lines
    assert "<details><summary>30 cases got worse</summary>" in lines
    assert "- case-1: answered 1 to 0. Where does river 1 run?" in lines
    assert "<details>" not in report.markdown(run, NONE)


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=40) | st.just(HOSTILE))
def test_no_text_breaks_the_markdown(text: str) -> None:
    """Whatever a question is, lines, cells and elements are as those of a harmless one; nobody is called."""
    harmless, made = (report.markdown(*_asking(of)) for of in ("x", text or " "))
    assert [line[:2] for line in made.splitlines()] == [line[:2] for line in harmless.splitlines()]
    assert made.count("|") == harmless.count("|")
    assert made.count("<") == harmless.count("<")
    assert not set("`_*[]~$@#\\") & set(re.sub(r"&#\d+;|^#+ ", "", made))
    assert not re.search(r"(?<!\w)@\w", unescape(made))


def _asking(text: str) -> tuple[Run, Decision]:
    run, decision, _ = fell()
    text = text.encode("utf-8", "replace").decode()
    asked = [replace(one, case=one.case.model_copy(update={"question": text})) for one in run.results]
    return replace(run, results=tuple(asked)), replace(decision, reasons=(text,))


def test_markdown_fits_into_a_comment() -> None:
    """Of many cases as many are shown as there is room for, and their number is said."""
    run, decision, _ = fell(2_000)
    text = report.markdown(*(_wide(run), decision))
    assert 50_000 < len(text.encode()) <= report.MOST_BYTES
    assert re.search(r"<summary>1500 cases got worse, \d+ shown</summary>", text)
    assert text.endswith("\n</details>\n")


def _wide(run: Run) -> Run:
    wide = [replace(one, case=one.case.model_copy(update={"question": "\U0001f600" * 500})) for one in run.results]
    return replace(run, results=tuple(wide))


def test_the_report_is_three_files(tmp_path: Path) -> None:
    """JSON that reads back as the run, with verdict and reasons; Markdown; HTML with the baseline's configuration."""
    run, decision, baseline = fell()
    paths = report.write(run, decision, tmp_path / "new" / "folder", baseline)
    assert [path.name for path in paths] == ["latest.json", "latest.md", "latest.html"]
    assert sorted(paths) == sorted((tmp_path / "new" / "folder").iterdir())
    written = json.loads(paths[0].read_bytes())
    assert (written["verdict"], written["reasons"]) == ("worse", list(decision.reasons))
    assert written["means"]["answered"] == 0.25
    assert read_run(paths[0]) == run
    assert paths[1].read_text("utf-8") == report.markdown(run, decision)
    assert paths[2].read_text("utf-8") == html.page([run], decision, baseline)


def test_a_report_that_cannot_be_written_leaves_the_last_one_whole(tmp_path: Path) -> None:
    """The file is put in place when it is complete."""
    run, decision, _ = fell(4)
    *_, page = report.write(run, decision, tmp_path)
    whole = page.read_bytes()
    (tmp_path / ".latest.html").mkdir()
    with pytest.raises(OSError, match=r"latest\.html"):
        report.write(run_of(), NONE, tmp_path)
    assert page.read_bytes() == whole


def test_half_a_surrogate_pair_can_be_reported(tmp_path: Path) -> None:
    """A model may say what UTF-8 cannot; the report has a question mark in its place."""
    *_, page = report.write(run_of(CaseResult(case(1), error="half \ud800")), NONE, tmp_path)
    assert "half ?" in page.read_text("utf-8")


def test_a_thousand_cases_take_little_time_and_room() -> None:
    """Two seconds of a quiet core at most, here with a margin; the page does not grow with the cases."""
    answer = replace(
        ANSWER, text="word " * 20_000, passages=tuple(replace(PASSAGE, text="word " * 500) for _ in range(50))
    )
    shares = ("answered", "recall@5", "ndcg@10", "evidence_recall", "citation_precision", "citation_recall")
    asked = [result(n, "short" if n % 3 else "long", answer=answer) for n in range(1_000)]
    results = [replace(one, scores=dict.fromkeys(shares, (n % 7) / 6)) for n, one in enumerate(asked)]
    began = time.process_time()
    page = html.page([run_of(*results)])
    assert time.process_time() - began < 4
    assert len(page) < 1_000_000
