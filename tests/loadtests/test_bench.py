"""Every question of `make bench` in its short form, and the page that is made of the answers."""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from loadtests import machine, networks
from loadtests.bench import __main__ as bench
from loadtests.bench import engine, growth, ingest, latency, page, serving, start_up
from loadtests.bench.rivals import COMPILING, RIVALS, Subject
from loadtests.networks import IMAGENET
from loadtests.pictures import with_pillow
from models.config import BUNDLED_MODEL
from models.images import Picture

RECORDED = Path(__file__).parent / "bench.json"  # python -m loadtests.bench --short, then --short --only growth
needs_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="there is no wrk (Debian: apt-get install wrk)")


@pytest.fixture
def report() -> dict[str, Any]:
    return json.loads(RECORDED.read_text())


def test_the_page_is_made_of_the_report_alone(report: dict[str, Any], tmp_path: Path):
    report["engine"]["ways"][0]["aot_over"]["eager"] = {"median": 7.125, "min": 6.5, "max": 8.0, "runs": 3}
    out = tmp_path / "benchmarks.md"
    page.json_of(out).parent.mkdir()
    page.json_of(out).write_text(json.dumps(report))

    page.write(out)

    text = out.read_text()
    assert text.index("## Ratios") < text.index("7.12 (6.50 to 8.00)") < text.index("## Engine")
    assert "[bench.json](benchmarks/bench.json)" in text
    plots = [tmp_path / name for name in _linked(text)]
    assert len(plots) == 5
    assert all(plot.read_text().startswith("<?xml") for plot in plots)


def test_a_short_run_is_not_taken_for_figures(report: dict[str, Any]):
    short = page.page({**report, "short": True}, "benchmarks")
    whole = page.page({**report, "short": False, "asked_apart": {}}, "benchmarks")
    apart = page.page({**report, "short": False}, "benchmarks")

    assert page.SHORT in short
    assert page.SHORT not in whole
    assert report["asked_apart"]["growth"]["short"]
    assert page.SHORT in apart


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"median": 1890.4, "min": 1680, "max": 2150, "runs": 5}, "1,890 (1,680 to 2,150)"),
        ({"median": 12.34, "min": 9.876, "max": 100.2, "runs": 5}, "12.3 (9.88 to 100)"),
        ({"median": 0.5, "min": 0.5, "max": 0.5, "runs": 1}, "0.50"),
        (None, ""),
    ],
)
def test_figures(found: dict[str, float] | None, text: str):
    assert page.figure(found) == text


def test_the_same_report_makes_the_same_plots(report: dict[str, Any]):
    assert page.plots.draw(report) == page.plots.draw(report)


def test_a_question_that_was_asked_apart_says_when_and_where(report: dict[str, Any]):
    apart = {**report, "date": "2031-02-03", "seconds": 180, "short": False}

    text = page.page({**report, "asked_apart": {"growth": apart}}, "benchmarks")

    assert "Asked apart: growth; 2031-02-03" in text


def test_asking_one_question_needs_the_others_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with (
        patch("sys.argv", ["bench", "--only", "growth", "--out", str(tmp_path / "page.md")]),
        pytest.raises(SystemExit, match="2"),
    ):
        bench.main()

    assert "page/bench.json with the other answers" in capsys.readouterr().err


def test_what_is_not_installed_has_no_version():
    assert list(machine.conditions("torch", "no-such-distribution")["versions"]) == ["Python", "coordserve", "torch"]


def test_decoding_is_compared_with_pillow_on_the_same_pixels():
    rows = ingest.run(short=True)

    assert [row["picture"] for row in rows] == [ingest.SMALL, *ingest.PICTURES]
    assert all(row["worker_ms"]["median"] > 0 and row["pillow_ms"]["median"] > 0 for row in rows)


@pytest.mark.parametrize("name", ingest.PICTURES)
def test_pillow_sees_what_a_worker_sees(name: str):
    data = ingest.encoded(name)

    ours = Picture(data).pixels(IMAGENET).astype(int)
    theirs = np.asarray(with_pillow(data, IMAGENET)).astype(int)

    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 2


@pytest.mark.slow
def test_the_engine_beside_what_is_installed(compiled_cache: Path):
    before = dict(os.environ)
    rivals = {name: make for name, make in RIVALS.items() if make not in COMPILING}

    found = engine.run([BUNDLED_MODEL], compiled_cache, short=True, rivals=rivals)

    [cell] = found["ways"]
    assert {*cell["images_per_second"], *cell["left_out"]} == set(rivals)
    assert {"aot", "eager"} <= set(cell["images_per_second"])
    assert all("installed" in why or "the same" in why for why in cell["left_out"].values())
    [alone] = found["alone"]
    assert alone["engine_over_bare_loop"]["median"] > 0
    assert dict(os.environ) == before  # the service that is measured next inherits it


@pytest.mark.slow
def test_a_way_that_computes_something_else_is_left_out(compiled_cache: Path, tmp_path: Path):
    subject = Subject(BUNDLED_MODEL, networks.compiled(BUNDLED_MODEL, compiled_cache), compiled_cache, tmp_path)
    rivals = {"aot": RIVALS["aot"], "wrong": lambda subject, images: lambda images: subject.served()(images).flip(1)}

    cell = engine.compare(subject, batch=2, rivals=rivals, rounds=1, seconds=0.1)

    assert list(cell["images_per_second"]) == ["aot"]
    assert "away from eager float32" in cell["left_out"]["wrong"]


@needs_wrk
@pytest.mark.slow
def test_serving_and_its_share_of_the_engine(compiled_cache: Path):
    case = serving.Case(BUNDLED_MODEL, 1, ingest.encoded(ingest.SMALL), 0.1)

    [row] = serving.run([case], compiled_cache, short=True)

    assert row["over_one_worker"]["median"] == 1
    assert row["share_of_engine_alone"]["median"] > 0
    assert 0 < row["share_of_limit_of_cores"]["median"] < 1.2  # CPU is counted in hundredths of a second
    assert row["worker_us"]["median"] > row["ingest_us"]
    assert row["total_mb"]["median"] > row["engine_mb"]["median"] > row["worker_mb"]["median"]


@pytest.mark.slow
def test_latency_by_offered_load(compiled_cache: Path):
    found = latency.run(BUNDLED_MODEL, ingest.encoded(ingest.SMALL), compiled_cache, short=True)

    for load in found["loads"]:
        assert load["offered"]["median"] == pytest.approx(load["share"] * found["capacity"]["median"], abs=0.1)
        assert load["p99_ms"]["median"] >= load["p50_ms"]["median"] > 0


@pytest.mark.slow
def test_start_up_with_and_without_a_package(compiled_cache: Path):
    found = start_up.run(compiled_cache, short=True)

    assert set(found) == set(page.START_UP)


@pytest.mark.parametrize(
    ("growing", "expected", "worse"),
    [
        ("nothing", growth.FLAT, []),
        ("a twentieth a size", growth.FLAT, []),
        ("engine", growth.FLAT, ["engine_us", "service_us"]),
        ("engine", growth.LINEAR, []),
        ("engine squared", growth.LINEAR, ["engine_us", "service_us"]),
    ],
)
def test_what_grows_by_more_than_expected_is_found(growing: str, expected: float, worse: list[str]):
    sizes = [500, 1000, 2000]
    engine_us = {
        "nothing": lambda size: 100.0,
        "a twentieth a size": lambda size: 100.0 * size**0.05,
        "engine": lambda size: 1.0 * size,
        "engine squared": lambda size: 0.01 * size**2,
    }[growing]
    rounds = [[_cost(300.0, noise * engine_us(size)) for noise in (0.95, 1.0, 1.05)] for size in sizes]

    found = growth.judged(sizes, rounds, expected)

    assert found["worse"] == worse
    assert found["growth"]["worker_us"]["median"] == 0


def _cost(worker_us: float, engine_us: float) -> dict[str, float]:
    return {"worker_us": worker_us, "engine_us": engine_us, "service_us": worker_us + engine_us}


@pytest.mark.slow
def test_growth_along_every_axis(compiled_cache: Path):
    found = growth.run(compiled_cache, short=True)

    by_name = {axis["axis"]: axis["loads"] for axis in found}
    assert [load["size"] for load in by_name["connections"]] == [1, 100]
    assert [load["workers"] for load in by_name["workers"]] == [1, 2]
    assert all(load[part]["median"] > 0 for loads in by_name.values() for load in loads for part in growth.PARTS)
    few, many = by_name["images asked for at a time"]
    assert few["waiting"]["median"] < many["waiting"]["median"] <= many["size"]


def _linked(text: str) -> list[str]:
    return [part.split(")")[0] for part in text.split("](")[1:] if part.split(")")[0].endswith(".svg")]
