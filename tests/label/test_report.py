"""The report: what it shows, that it shows it safely, and that a browser agrees."""

import html.parser
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label.finished_run import HOSTILE, DrawnSource, Run, cut, dataset, make_kb, make_run

from raylab.errors import RaylabError
from raylab.label.judging import audit_figures, sampled_rows
from raylab.label.report import write_report
from raylab.label.sampling import draw
from raylab.label.store import LabelStore
from raylab.label.survey import survey
from raylab.schema import LABEL, REJECT
from raylab.sources.base import Limits, Source
from raylab.storage import Folder


class Page(html.parser.HTMLParser):
    """The elements of a page, their attributes, and the text below those with an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.by_id: dict[str, str] = {}
        self._id: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._id = dict(attrs).get("id")

    def handle_data(self, data: str) -> None:
        if self._id:
            self.by_id[self._id] = data
            self._id = None

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report(run: Run, source: Source | None = None) -> str:
    write_report(Folder(str(run.out)), run.summary, run.labels, run.rejects, source or DrawnSource(), Limits())
    return (run.out / "report.html").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("report")
    make_kb(folder)
    return make_run(folder / "run")


@pytest.fixture(scope="module")
def text(run: Run) -> str:
    return report(run)


def test_headline_counts_are_those_of_the_summary(run: Run, text: str) -> None:
    page = Page(text)
    for name, key in (("rows-in", "rows_in"), ("labelled", "labelled"), ("rejected", "rejected"), ("failed", "failed")):
        assert page.by_id[name] == f"{run.summary[key]:,}"


def test_every_decision_has_rows_and_the_count_of_the_summary(run: Run, text: str) -> None:
    totals = {
        anchor: int(total.replace(",", ""))
        for anchor, total in re.findall(r'<li><a href="#rows-([a-z_-]+)">[^<]+<span class="soft">([\d,]+)</span>', text)
    }
    for step in run.summary["steps"]:
        for reason, count in step["rejected"].items():
            assert totals[f"{step['name']}-{reason}"] == count
    assert totals["select-step_error"] == run.summary["failed"]
    assert {"labelled-high", "labelled-near", "labelled-overruled", "labelled-wrong"} <= set(totals)
    assert all(f'id="rows-{anchor}"' in text for anchor in totals)


def test_it_says_when_a_part_of_the_rows_was_looked_at(
    run: Run, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "looked-at" not in Page(text).by_id
    labels, rejects = cut(run.labels, tmp_path / "labels", 20), cut(run.rejects, tmp_path / "rejects", 20)
    monkeypatch.setattr("raylab.label.report.survey", partial(survey, most_rows=labels.count_rows() // 3))
    out = shutil.copytree(run.out, tmp_path / "run")
    write_report(Folder(str(out)), run.summary, labels, rejects, DrawnSource(), Limits())
    said = Page((out / "report.html").read_text()).by_id["looked-at"]
    numbers = [int(one.replace(",", "")) for one in re.findall(r"[\d,]*\d", said)]
    assert numbers[0] < numbers[1] == run.summary["rows_in"]


def test_nothing_hostile_in_a_caption_a_url_or_the_config_becomes_an_element(text: str) -> None:
    page = Page(text)
    assert not page.all("script")
    assert len(page.all("style")) == 1
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert not (attributes.get("href") or "").startswith("javascript:")
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in text
    assert HOSTILE not in text


def test_the_file_is_self_contained(text: str) -> None:
    page = Page(text)
    assert all((one["src"] or "").startswith("data:image/webp;base64,") for one in page.all("img"))
    assert all((one["href"] or "").startswith("data:") for one in page.all("link"))
    assert all(re.match(r"#|https?://shop\.example/\d+$", one["href"] or "") for one in page.all("a"))
    assert "url(" not in text.split("</style>", maxsplit=1)[0]
    assert "@import" not in text
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_figures_have_words_for_those_who_do_not_see_them(text: str) -> None:
    figures = Page(text).all("svg")
    assert len(figures) == 6
    assert all(
        one["role"] == "img" and re.search("half of all lie|surest 5.%", one["aria-label"] or "") for one in figures
    )


def test_the_same_run_gives_the_same_bytes(run: Run, text: str) -> None:
    assert report(run) == text


def test_candidates_carry_their_names_from_the_knowledge_base(text: str) -> None:
    assert 'Georgia <span class="soft">Q230</span>' in text
    assert "what Q142 is" in text


def test_ids_stand_in_for_names_when_the_knowledge_base_is_gone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=60)
    text = report(run)
    assert "what Q142 is" not in text
    assert re.search(r'<th scope="row" title="Q142; by alias', text)


def test_refused_and_missing_images_say_why(text: str) -> None:
    assert set(re.findall('<div class="thumb">([^<]+)<', text)) == {"missing image", "image corrupt"}


def test_a_source_that_is_gone_costs_the_pictures_only(tmp_path: Path) -> None:
    class Gone(DrawnSource):
        def image_bytes(self, refs: Sequence[dict]) -> list:
            raise RaylabError("s3://bucket: no such bucket")

    text = report(make_run(tmp_path / "run", rows=60), Gone())
    assert not Page(text).all("img")
    assert "source cannot be read: s3://bucket: no such bucket" in text


def test_without_truth_nothing_is_called_right_or_wrong(tmp_path: Path) -> None:
    text = report(make_run(tmp_path / "run", rows=120, truth=False))
    assert 'id="quality"' not in text
    assert "✓ right" not in text
    assert "✗ wrong" not in text
    assert "rows-labelled-wrong" not in text


def test_wrong_labels_are_marked_and_tell_what_is_in_the_picture(text: str) -> None:
    wrong = text.split('id="rows-labelled-wrong"')[1].split("</details>", maxsplit=1)[0]
    assert wrong.count("✗ wrong") == wrong.count("<article")
    assert wrong.count("in the picture:</span>") == wrong.count("<article")


@pytest.mark.parametrize("rows", [0, 1])
def test_a_run_with_hardly_any_row_has_a_report(tmp_path: Path, rows: int) -> None:
    assert Page(report(make_run(tmp_path / "run", rows=rows))).by_id["rows-in"] == str(rows)


def test_a_run_that_labelled_nothing_has_a_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=50)
    pq.write_table(LABEL.empty_table(), run.out / "labels" / "00000.parquet")
    pq.write_table(
        pa.table({"images": pa.array([], pa.int64()), "kept": pa.array([], pa.bool_())}),
        run.out / "entity_counts.parquet",
    )
    empty = Run(
        run.out, run.summary, run.config, dataset(run.out / "labels", LABEL), dataset(run.out / "rejects", REJECT)
    )
    assert "rows-labelled-high" not in report(empty)


def test_thousands_of_noisy_pictures_do_not_grow_the_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=5000)
    report(run)
    assert (run.out / "report.html").stat().st_size < 3_000_000


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("annotated")
    make_kb(folder)
    return make_run(folder / "run", rows=800, annotated=True)


@pytest.fixture(scope="module")
def annotated_text(annotated: Run) -> str:
    return report(annotated)


def exhibit(text: str, anchor: str) -> str:
    return text.split(f'id="rows-{anchor}"')[1].split("</details>", maxsplit=1)[0]


def test_what_the_annotator_said_has_its_own_section(annotated: Run, annotated_text: str) -> None:
    page, figures = Page(annotated_text), annotated.summary["annotation"]
    for name in ("annotated", "verified", "corrected"):
        assert page.by_id[name] == f"{figures[name]:,}"
    section = annotated_text.split('<section id="annotator"')[1].split("</section>", maxsplit=1)[0]
    for anchor in ("labelled-verified", "labelled-corrected", "labelled-unresolved", "verify-answer_malformed"):
        assert f'id="rows-{anchor}"' in section
    for anchor in ("labelled-high", "select-low_score"):
        assert f'id="rows-{anchor}"' not in section
    for prompt in figures["prompts"]:
        assert prompt in section
    assert len(re.findall("<svg", section)) == 5


def test_a_correction_shows_both_names_and_marks(annotated_text: str) -> None:
    shown = exhibit(annotated_text, "labelled-corrected")
    cards = shown.count("<article")
    assert cards == 8 == shown.count("<s>") == shown.count('<span aria-label="becomes">')
    assert "not in the picture" in shown
    assert shown.count("✓ right") + shown.count("✗ wrong") == cards
    assert shown.count("→ Germany</span>") >= cards  # an answer that is linked
    assert "Which country is it?" in shown


def test_unresolved_titles_are_labels_and_wrong(annotated_text: str) -> None:
    shown = exhibit(annotated_text, "labelled-unresolved")
    assert shown.count("✗ wrong") == shown.count("<article") == 8
    assert "no entity&#39;s name" in shown
    assert "Old kingdom" in shown


def test_refused_answers_show_how_far_they_got(annotated_text: str) -> None:
    assert "3 requests" in exhibit(annotated_text, "verify-answer_malformed")
    assert "confidence" in exhibit(annotated_text, "verify-low_confidence")


def test_nothing_that_the_annotator_wrote_becomes_an_element(annotated_text: str) -> None:
    page = Page(annotated_text)
    assert not page.all("script")
    assert not [one for _, attributes in page.elements for one in attributes if one.startswith("on")]
    assert all((one["src"] or "").startswith("data:image/webp;base64,") for one in page.all("img"))
    assert HOSTILE not in annotated_text


def test_a_run_without_annotations_shows_nothing_of_them(text: str) -> None:
    for word in ("annotator", "annotated", "audit", "confidence"):
        assert word not in text.lower()


def test_an_audit_is_shown_when_there_is_one_and_draws_the_diagrams_without_truth(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=400, annotated=True, truth=False)
    before = report(run)
    assert 'id="audit"' not in before
    assert before.split('id="annotator"')[1].split("</section>", maxsplit=1)[0].count("<svg") == 1
    sample = draw(run.labels, run.rejects, rows=150)
    rows = sampled_rows(LabelStore(str(run.out)), sample.by_row())
    verdicts = {row_id: number % 5 > 0 for number, row_id in enumerate(rows)}
    audit = {"measured_by": "review"} | audit_figures(sample, rows, verdicts, 0.7)
    Folder(str(run.out)).write_json("audit.json", audit)
    text = report(run)
    shown = text.split('id="audit"')[1].split("</section>", maxsplit=1)[0]
    verify = audit["steps"]["verify"]
    assert "Judged by people" in shown
    assert f"{verify['low']:.3f} to {verify['high']:.3f}" in shown
    assert text.split('id="annotator"')[1].split("</section>", maxsplit=1)[0].count("<svg") == 3
    assert "labels judged by people" in text


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_an_annotated_run_with_hardly_any_row_has_a_report(tmp_path: Path, rows: int) -> None:
    assert Page(report(make_run(tmp_path / "run", rows=rows, annotated=True))).by_id["rows-in"] == str(rows)


def test_text_that_no_file_can_hold_does_not_stop_the_report(run: Run) -> None:
    odd = run.summary | {"source": "drawn://\ud800\x00"}
    write_report(Folder(str(run.out)), odd, run.labels, run.rejects, DrawnSource(), Limits())


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_it_without_errors_or_requests(run: Run, text: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(text)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --enable-logging=stderr"
    flags += " --disable-background-networking --disable-component-update --v=0 --virtual-time-budget=2000"
    places = [f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={tmp_path / 'net.json'}"]
    line = ["chromium", *flags.split(), *places, "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    shown = subprocess.run(
        [*line, f"file://{tmp_path / 'report.html'}"], capture_output=True, text=True, timeout=120, check=True
    )
    page = Page(shown.stdout)
    assert page.by_id["labelled"] == f"{run.summary['labelled']:,}"
    assert len(page.all("article")) == len(Page(text).all("article")) > 50
    assert not page.all("script")
    assert "CONSOLE" not in shown.stderr
    asked = set(re.findall(r'"url":"https?://([^/"]+)', (tmp_path / "net.json").read_text(errors="replace")))
    assert not asked & {"shop.example", "x", "alert"}
    assert not [host for host in asked if not host.endswith(("google.com", "googleapis.com", "gvt1.com"))]
