"""The page at `/`, in a real Chromium against the running service."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from loadtests.running import RunningService
from models import directory
from models.config import BUNDLED_MODEL, ModelConfig, Network, read_config
from models.networks import create
from tests.conftest import DIGITS, encode, noise

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

SEVEN = DIGITS / "dejavu-sans-7.png"
LABELS = read_config(BUNDLED_MODEL).labels
# Chromium's own line for every answer that is an error; what the page makes of it is what counts.
EXPECTED_OF_ERRORS = "Failed to load resource"


@dataclass
class Visit:
    """A page that is open, and what it complained of."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def find(self, selector: str) -> Any:
        return self.page.locator(selector)

    def expect(self, selector: str) -> Any:
        return expect(self.find(selector))

    def example(self, name: str) -> None:
        self.page.get_by_role("button", name=f"Example {name}").click()
        self.expect("#answer").to_be_visible()
        self.looked()

    def looked(self) -> None:
        """Wait until the map lies over the picture and nothing is under way."""
        self.expect("body").not_to_have_class(re.compile("waiting"))
        self.expect("#heat").to_be_visible()

    def draw(self, *points: tuple[float, float]) -> None:
        """A stroke with the mouse, in shares of the square."""
        box = self.find("#picture").bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=10)
        self.page.mouse.up()

    def brightest(self) -> tuple[float, float]:
        """Where the map is brightest: x and y in shares of the square."""
        pixels, width = self.page.evaluate(
            "() => { const heat = document.getElementById('heat'); const { width, height } = heat;"
            "const copy = new OffscreenCanvas(width, height).getContext('2d'); copy.drawImage(heat, 0, 0);"
            "return [[...copy.getImageData(0, 0, width, height).data], width] }"
        )
        light = np.array(pixels).reshape(-1, width, 4)[..., :3].sum(axis=2)
        y, x = np.unravel_index(light.argmax(), light.shape)
        return x / width, y / width

    def give(self, event: str, name: str, content: bytes) -> None:
        """Drop or paste a file."""
        self.page.evaluate(
            """([event, name, bytes]) => {
                const data = new DataTransfer();
                if (name) data.items.add(new File([new Uint8Array(bytes)], name));
                const made = event === "drop"
                    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
                document.body.dispatchEvent(made);
            }""",
            [event, name, list(content)],
        )


@pytest.fixture
def opened(chromium: Any) -> Iterator[Any]:
    """A function that opens a page, with options of Playwright's new_context; none may complain in the end."""
    visits: list[Visit] = []

    def visit(url: str, **options: Any) -> Visit:
        page = chromium.new_context(**options).new_page()
        made = Visit(page)
        page.on("console", lambda line: made.complaints.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: made.complaints.append(str(error)))
        page.goto(url)
        made.expect("#serving").not_to_be_empty()
        visits.append(made)
        return made

    yield visit
    complaints = [line for one in visits for line in one.complaints if EXPECTED_OF_ERRORS not in line]
    for one in visits:
        one.page.context.close()
    assert not complaints


@pytest.fixture
def visit(opened: Any, service: RunningService) -> Visit:
    return opened(service.url)


def test_a_drawn_seven_is_read(visit: Visit):
    visit.page.get_by_role("button", name="Draw").click()
    visit.draw((0.3, 0.2), (0.7, 0.2), (0.45, 0.85))

    visit.looked()
    visit.expect("#verdict").to_contain_text("seven")
    scores = [float(text.split()[0]) for text in visit.find("#ranking .score").all_inner_texts()]
    widths = [box["width"] for box in (bar.bounding_box() for bar in visit.find("#ranking .bar").all())]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert widths[0] > 5 * widths[1] > 0


def test_a_second_stroke_changes_the_answer_and_clear_begins_anew(visit: Visit):
    visit.page.get_by_role("button", name="Draw").click()
    visit.draw((0.5, 0.15), (0.5, 0.85))
    visit.looked()
    visit.expect("#verdict").to_contain_text("one")

    visit.page.get_by_role("button", name="Clear").click()
    visit.draw((0.3, 0.2), (0.7, 0.2), (0.45, 0.85))

    visit.expect("#verdict").to_contain_text("seven")


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_dropped_or_pasted_file_is_classified(visit: Visit, event: str):
    visit.give(event, "7.png", SEVEN.read_bytes())

    visit.looked()
    visit.expect("#verdict").to_contain_text("seven")


def test_a_chosen_file_is_classified_and_shown_as_the_network_sees_it(visit: Visit, tmp_path: Path):
    wide = np.full((64, 128, 3), 255, np.uint8)
    wide[:, :32], wide[:, 96:] = (255, 0, 0), (0, 0, 255)  # outside the square in the middle
    (tmp_path / "wide.png").write_bytes(encode(wide))

    visit.find("#file").set_input_files(tmp_path / "wide.png")

    visit.looked()
    shown = visit.page.evaluate(
        "() => [...document.getElementById('picture').getContext('2d').getImageData(4, 4, 1, 1).data]"
    )
    assert shown == [255, 255, 255, 255]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"these are words", "The bytes are no image we read"),
        (SEVEN.read_bytes()[:-60], "The image is broken"),
        (b"", "The request cannot be read: the body is empty"),
    ],
)
def test_a_bad_file_shows_its_problem_and_a_good_one_is_read_after_it(visit: Visit, content: bytes, text: str):
    visit.example("corner-3")

    visit.give("drop", "bad.png", content)

    visit.expect("#problem").to_contain_text(text)
    visit.expect("#answer").to_be_hidden()
    visit.expect("#heat").to_be_hidden()
    visit.example("marker-7")
    visit.expect("#problem").to_be_empty()
    visit.expect("#verdict").to_contain_text("seven")


def test_a_file_larger_than_the_service_takes_is_refused_in_words(visit: Visit):
    visit.page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(20 << 20)], "large.jpg"));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )

    visit.expect("#problem").to_contain_text(re.compile("too large|larger than it takes"))


def test_something_dropped_that_is_no_file_is_refused_in_words(visit: Visit):
    visit.give("drop", "", b"")

    visit.expect("#problem").to_contain_text("no file")


def test_the_overlay_moves_with_the_digit(visit: Visit):
    visit.example("corner-3")
    x, y = visit.brightest()
    assert x > 0.5
    assert y < 0.6

    visit.example("corner-5")
    x, y = visit.brightest()
    assert x < 0.5
    assert y > 0.4


def test_the_slider_lays_the_overlay_on_thicker_by_keyboard(visit: Visit):
    visit.example("corner-3")
    opacity = "() => Number(getComputedStyle(document.getElementById('heat')).opacity)"
    before = visit.page.evaluate(opacity)

    visit.find("#opacity").focus()
    for _ in range(10):
        visit.page.keyboard.press("ArrowRight")

    assert visit.page.evaluate(opacity) == pytest.approx(before + 0.1)


def test_each_block_shows_its_gates_and_the_keyboard_goes_through_them(visit: Visit, service: RunningService):
    picture = (BUNDLED_MODEL / "examples" / "corner-3.png").read_bytes()
    answer = httpx.post(f"{service.url}/v1/explain", content=picture, headers={"Content-Type": "image/png"})
    blocks = answer.json()["explanations"][0]["blocks"]
    visit.example("corner-3")
    assert visit.find("#view-list input").count() == 1 + len(blocks)
    visit.expect("#rows").to_be_hidden()

    visit.find("#view-list input").first.focus()
    visit.page.keyboard.press("ArrowRight")

    visit.expect("#rows").to_be_visible()
    visit.expect("#looked").to_contain_text(f"{blocks[0]['name']}, {len(blocks[0]['a_h'])}")
    size = "(id) => [document.getElementById(id).width, document.getElementById(id).height]"
    assert visit.page.evaluate(size, "heat") == [len(blocks[0]["a_w"]), len(blocks[0]["a_h"])]
    assert visit.page.evaluate(size, "rows") == [1, len(blocks[0]["a_h"])]
    assert visit.page.evaluate(size, "columns") == [len(blocks[0]["a_w"]), 1]


def test_grad_cam_speaks_for_the_class_that_was_chosen(visit: Visit):
    visit.example("corner-3")

    visit.find("#method").select_option(label="Grad-CAM for three")

    visit.expect("#looked").to_have_text("Bright: what speaks for three.")
    visit.expect("#views").to_be_hidden()


def test_the_method_chosen_stays_for_the_best_class_of_the_next_picture(visit: Visit):
    visit.example("corner-3")
    visit.find("#method").select_option(label="Grad-CAM for three")
    visit.expect("#looked").to_have_text("Bright: what speaks for three.")

    visit.example("corner-5")

    visit.expect("#looked").to_have_text("Bright: what speaks for five.")


def test_a_failed_explanation_leaves_the_ranking_and_can_be_asked_for_again(visit: Visit):
    problem = json.dumps({"title": "Too busy", "detail": "try again"})
    visit.page.route(re.compile("/v1/explain"), lambda route: route.fulfill(status=503, body=problem))
    visit.page.get_by_role("button", name="Example corner-3").click()
    visit.expect("#looked").to_have_text("Too busy: try again")
    visit.expect("#verdict").to_contain_text("three")
    visit.expect("#ranking").to_be_visible()
    visit.expect("#heat").to_be_hidden()
    visit.expect("#problem").to_be_empty()

    visit.page.unroute_all()
    visit.find("#method").select_option(label="Grad-CAM for three")

    visit.looked()
    visit.expect("#looked").to_have_text("Bright: what speaks for three.")


def test_the_method_chosen_last_is_shown_and_the_one_before_is_given_up(visit: Visit):
    visit.example("corner-3")
    visit.page.route(re.compile("method=gradcam"), lambda route: None)  # never answered
    visit.find("#method").select_option(label="Grad-CAM for three")

    with visit.page.expect_event("requestfailed", lambda request: "gradcam" in request.url):
        visit.find("#method").select_option("coordatt")

    visit.looked()
    visit.expect("#looked").to_contain_text("the attention of all blocks")


def test_clear_gives_up_the_question_and_says_nothing_more_of_the_drawing(visit: Visit):
    visit.page.get_by_role("button", name="Draw").click()
    visit.draw((0.5, 0.15), (0.5, 0.85))
    visit.looked()
    visit.page.route(re.compile("/v1/predict"), lambda route: None)  # never answered
    with visit.page.expect_request(re.compile("/v1/predict")):
        visit.draw((0.3, 0.2), (0.7, 0.2))

    with visit.page.expect_event("requestfailed"):
        visit.page.get_by_role("button", name="Clear").click()

    visit.expect("#answer").to_be_hidden()
    visit.expect("#verdict").to_have_text("Nothing drawn yet.")
    visit.expect("#heat").to_be_hidden()
    visit.expect("body").not_to_have_class(re.compile("waiting"))


def test_a_drawing_cleared_at_once_is_not_asked_about(visit: Visit):
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    visit.page.get_by_role("button", name="Draw").click()
    visit.page.evaluate("() => addEventListener('pointerup', () => document.getElementById('clear').click())")

    visit.draw((0.5, 0.15), (0.5, 0.85))

    visit.page.evaluate("() => new Promise((done) => document.getElementById('picture').toBlob(() => done()))")
    visit.expect("#verdict").to_have_text("Nothing drawn yet.")
    assert not [url for url in asked if "/v1/predict" in url]


def test_more_classes_are_shown_on_demand_and_no_nonsense(visit: Visit):
    visit.example("corner-3")

    visit.find("#top-k").fill("8")
    visit.find("#top-k").blur()
    visit.expect("#ranking li").to_have_count(8)

    visit.find("#top-k").fill("-3")
    visit.find("#top-k").blur()
    visit.expect("#ranking li").to_have_count(1)

    visit.find("#top-k").fill("99999999999")
    visit.find("#top-k").blur()
    visit.expect("#ranking li").to_have_count(len(LABELS))
    visit.expect("#top-k").to_have_value(str(len(LABELS)))
    visit.expect("#problem").to_be_empty()


def test_the_timing_is_that_of_the_request(visit: Visit):
    visit.example("marker-7")

    text = visit.find("#timing-text").inner_text()

    assert re.fullmatch(r"decode [\d.]+ ms, queue [\d.]+ ms, infer [\d.]+ ms, HTTP [\d.]+ ms, in a batch of \d+", text)


def test_the_live_strip_follows_the_metrics(visit: Visit, service: RunningService):
    gauge = "#gauges div:nth-child({}) dd:nth-child(2)"
    visit.expect(gauge.format(4)).to_have_text("0")  # two readings have come
    for _ in range(20):
        httpx.post(f"{service.url}/v1/predict", content=SEVEN.read_bytes(), headers={"Content-Type": "image/png"})

    visit.expect(gauge.format(1)).to_have_text(re.compile(r"^[1-9]|^0\.[0-9]*[1-9]"))
    visit.expect(gauge.format(2)).to_have_text(re.compile(r"^[\d.,]+ / [\d.,]+$"))
    visit.expect(gauge.format(3)).to_have_text(re.compile(r"^[\d.]+, at most \d+$"))
    assert len(visit.find("#gauges polyline").first.get_attribute("points").split()) >= 2


def test_the_card_says_what_the_service_says_of_its_model(visit: Visit, service: RunningService):
    card = service.card()

    visit.expect("#description").to_have_text(card["description"])
    visit.expect("#facts").to_contain_text(card["network"])
    visit.expect("#facts").to_contain_text(f"{card['parameters']:,}")
    visit.expect("#facts").to_contain_text(card["weights_sha256"][:16])
    visit.find("#labels-summary").click()
    visit.expect("#labels").to_have_text(", ".join(LABELS))


def test_a_card_that_could_not_be_had_is_asked_for_again(visit: Visit):
    visit.page.route(re.compile("/v1/models"), lambda route: route.abort())
    visit.page.reload()
    visit.expect("#problem").to_contain_text("The service did not answer")
    visit.page.get_by_role("button", name="Example corner-3").click()
    visit.expect("#problem").to_contain_text("The service did not answer")
    visit.expect("body").not_to_have_class(re.compile("waiting"))

    visit.page.unroute_all()
    visit.example("corner-3")

    visit.expect("#verdict").to_contain_text("three")
    visit.expect("#serving").not_to_be_empty()
    visit.expect("#problem").to_be_empty()


def test_a_card_that_cannot_be_had_after_compiling_is_asked_for_again(visit: Visit):
    visit.expect("#gauges div:nth-child(4) dd:nth-child(2)").to_have_text("0")  # two readings have come
    visit.page.route(re.compile("/v1/models"), lambda route: route.abort())
    visit.page.route(re.compile("/metrics"), lambda route: route.fulfill(body="coordserve_compiled 7\n"))
    visit.expect("#live-problem").to_contain_text("The service did not answer")

    with visit.page.expect_response(re.compile("/v1/models")):
        visit.page.unroute(re.compile("/v1/models"))

    visit.expect("#live-problem").to_be_empty()


def test_dark_and_light_follow_the_system_and_the_button(opened: Any, service: RunningService):
    ground = "() => getComputedStyle(document.documentElement).backgroundColor"
    light, dark = opened(service.url, color_scheme="light"), opened(service.url, color_scheme="dark")
    colours = light.page.evaluate(ground), dark.page.evaluate(ground)
    assert colours[0] != colours[1]

    light.page.get_by_role("button", name="Dark colours").click()

    assert light.page.evaluate(ground) == colours[1]


def test_nothing_is_asked_of_anyone_else_and_nothing_inline_may_run(opened: Any, service: RunningService):
    visit = opened(service.url)
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    policy = visit.page.reload().header_value("content-security-policy")
    visit.example("chalk-8")

    assert asked
    assert all(url.startswith(service.url) for url in asked)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_phone_shows_it_all_without_scrolling_sideways(opened: Any, service: RunningService):
    visit = opened(service.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    visit.example("pen-2")
    visit.find("#view-list label").nth(3).click()

    assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_axe_finds_nothing_to_mend(opened: Any, service: RunningService, scheme: str, width: int):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    visit = opened(service.url, color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce")
    visit.example("corner-3")
    visit.find("#view-list label").nth(2).click()
    found = axe.run(visit.page).response["violations"]

    visit.page.get_by_role("button", name="Draw").click()
    found += axe.run(visit.page).response["violations"]

    assert not [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]


def test_the_whole_way_works_by_keyboard(visit: Visit):
    visit.page.get_by_role("button", name="Example corner-3").focus()
    visit.page.keyboard.press("Enter")
    visit.looked()
    visit.expect("#verdict").to_contain_text("three")

    reached = set()
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        reached.add(visit.page.evaluate("() => document.activeElement.id || document.activeElement.name"))

    assert reached >= {"top-k", "method", "opacity", "view", "labels-summary", "theme", "file", "draw"}


def test_where_keys_are_needed_the_page_asks_for_one(opened: Any, compiled_cache: Path, tmp_path: Path):
    (tmp_path / "keys").write_text("open-sesame\n")
    with RunningService(workers=1, cache_dir=compiled_cache, api_keys_file=tmp_path / "keys") as running:
        visit = opened(running.url)
        visit.page.get_by_role("button", name="Example marker-7").click()
        visit.expect("#problem").to_contain_text("A key is needed")

        visit.page.get_by_label("API key").fill("schlüssel")
        visit.page.keyboard.press("Enter")
        visit.expect("#problem").to_contain_text("That is no key")
        visit.expect("#key-form").to_be_visible()

        visit.page.get_by_label("API key").fill("open-sesame")
        visit.page.keyboard.press("Enter")

        visit.looked()
        visit.expect("#verdict").to_contain_text("seven")
        visit.expect("#key-form").to_be_hidden()


def test_where_metrics_need_a_key_the_page_asks_for_one_at_once(opened: Any, compiled_cache: Path, tmp_path: Path):
    (tmp_path / "keys").write_text("open-sesame\n")
    with RunningService(
        workers=1, cache_dir=compiled_cache, api_keys_file=tmp_path / "keys", protect_metrics=True
    ) as running:
        visit = opened(running.url)
        visit.expect("#key-form").to_be_visible()
        visit.expect("#problem").to_contain_text("A key is needed")

        visit.page.get_by_label("API key").fill("open-sesame")
        visit.page.keyboard.press("Enter")

        visit.expect("#gauges div:nth-child(4) dd:nth-child(2)").to_have_text("0")
        visit.expect("#live-problem").to_be_empty()
        visit.expect("#key-form").to_be_hidden()
        visit.expect("#problem").to_be_empty()


def test_a_network_without_coordinate_attention_or_examples_has_grad_cam(opened: Any, tmp_path: Path):
    bundled = json.loads((BUNDLED_MODEL / "config.json").read_text())
    network = Network(family="mobilenetv2", attention="se", width=0.25)
    config = ModelConfig(**{**bundled, "network": network, "labels": ["cat", "<b>dog</b>"], "weights_sha256": None})
    torch.manual_seed(0)
    directory.save(tmp_path / "se", config, create(network, 2))
    with RunningService(workers=1, compile="off", model=tmp_path / "se") as running:
        visit = opened(running.url)
        visit.expect("#examples").to_be_hidden()

        visit.give("drop", "noise.png", encode(noise(1)))

        visit.looked()
        visit.expect("#looked").to_contain_text("what speaks for")
        visit.expect("#views").to_be_hidden()
        assert "<b>dog</b>" in " ".join(visit.find("#ranking .label").all_inner_texts())
