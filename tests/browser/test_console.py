"""The web console in a real browser, over a real ``salescast up``: log, learner, API, console.

What needs an API with a key, or one that goes away, has the real API over hand-made snapshots.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI

from api.server import Server
from scripts.up import free_port
from tests.api_parts import Deployment
from tests.browser.parts import STORE, eventually, post, running_up, said, sale, started, today
from tests.browser.webdriver import (
    DOWN,
    ENTER,
    ESCAPE,
    RIGHT,
    TAB,
    Browser,
    absent,
    browser,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(absent()), reason=f"no browser to drive: {absent()}"),
]

DAYS, POISONED = 40, 3
HARBOUR = "Harbour"
#: A name that would run as markup, were it ever treated as such.
EVIL = "<img src=x onerror='window.harmed=1'>"
PRODUCTS = {"Rye bread": 9, "Rye rolls": 5, "Half/half": 3, EVIL: 2}
PAGES = ("/forecasts", "/quality", "/snapshots", "/inputs", "/letters", "/models", "/audit")
QUIET = "document.querySelector('h1') && !document.querySelector('section[aria-busy=true]')"
TRACE = """
  const trace = document.querySelector('.chart').data?.find((t) => t.name === arguments[0]);
  return trace ? {x: [...trace.x], y: [...trace.y]} : null;
"""
SERIES = "/forecasts?store=Harbour&product=Rye+bread"


class Places(NamedTuple):
    """Addresses of an API and of a console over it."""

    api: str
    console: str


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """A Salescast that has seen nothing yet."""
    with running_up(tmp_path_factory.mktemp("console"), guard="warn") as (api, console):
        eventually("the console answers", lambda: httpx.get(console).is_redirect)
        yield Places(api, console.rstrip("/"))


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """One browser for all tests."""
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def clean_until(places: Places) -> str:
    """Sales of two stores, of which one's till went wrong lately; the time before that."""

    def send(days: range) -> None:
        for day in days:
            noon = today() - timedelta(days=day) + timedelta(hours=12)
            wrong = 50 if day <= POISONED else 1
            events = []
            for product, n in PRODUCTS.items():
                events.append(sale(product, noon, n + day % 7, day))
                events.append(sale(product, noon, (n + day % 7) * wrong, f"h{day}",
                                   store=HARBOUR, source="till-2"))  # fmt: skip
            post(places.api, events)

    def as_of(day: int) -> str:
        known = httpx.get(f"{places.api}v1/status").json()["partitions"][0]
        wanted = (today() - timedelta(days=day) + timedelta(hours=12)).isoformat()
        return str(known["as_of"]) if known["as_of"] and known["as_of"] >= wanted else ""

    send(range(DAYS, POISONED, -1))
    before = eventually("the clean days are served", lambda: as_of(POISONED + 1))
    send(range(POISONED, 0, -1))
    # Closes all days before; it is of the good till.
    post(places.api, [sale("Rye bread", today() + timedelta(seconds=1), 3, 0)])
    eventually("the poisoned days are served", lambda: as_of(0) or as_of(1))
    eventually("they are learned", lambda: forecast(places.api) > 60)
    return str(before)


def forecast(api: str) -> float:
    """What is forecast for the store whose till went wrong, of the last step."""
    answer = httpx.get(f"{api}v1/forecasts/{HARBOUR}/Rye%20bread").json()
    return float(answer["steps"][-1]["mean"]) if "steps" in answer else 0.0


@pytest.fixture
def at(window: Browser, places: Places, clean_until: str) -> Callable[[str], Browser]:
    """Opens a page of the console that has something to show, and waits for it."""
    return lambda path: shown(window, places.console + path)


def shown(window: Browser, url: str) -> Browser:
    window.open("about:blank")
    window.complaints()
    window.open(url)
    window.wait(QUIET)
    return window


def click(page: Browser, label: str) -> None:
    """Click the button or link that says so, once it is there."""
    # A dialog that is open is meant, not what is behind it.
    found = (
        "[...(document.querySelector('.action') ?? document).querySelectorAll('button, a')]"
        ".find((e) => e.innerText.trim() === label)"
    )
    page.wait(f"((label) => {found})(arguments[0])", label)
    page.run(f"const label = arguments[0]; {found}.click()", label)


def fill(page: Browser, name: str, text: str) -> None:
    """Type into a field, by its name."""
    field = f"document.querySelector('.action [data-name={name}]')"
    page.wait(f"{field}?.offsetParent")
    page.run(f"const e = {field}; (e.matches('input, textarea') ? e :"
             " e.querySelector('input, textarea')).select()")  # fmt: skip
    page.press(text)


def says(page: Browser, text: str) -> None:
    """Wait until the page says something."""
    page.wait("document.body.innerText.includes(arguments[0])", text)


# -- empty -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/forecasts", "No sales yet"),
        ("/quality", "Nothing is scored yet"),
        ("/snapshots", "nothing yet"),
        ("/inputs", "No source was heard of yet"),
        ("/letters", "No dead letters"),
        ("/models", "No model is scored yet"),
        ("/audit", "Nothing was done yet"),
    ],
)
def test_before_the_first_sale_every_page_says_what_will_stand_there(
    window: Browser, places: Places, path: str, said: str
) -> None:
    page = shown(window, places.console + path)
    assert said in page.text("#content")
    assert page.complaints() == []


def test_a_page_of_another_site_is_turned_away(places: Places) -> None:
    def get(**headers: str) -> int:
        return httpx.get(f"{places.console}/_nicegui_ws/socket.io/?EIO=4&transport=polling",
                         headers=headers).status_code  # fmt: skip

    assert get(Origin="https://evil.example") == 403
    assert get(Host="evil.example") == 403
    assert get(Origin=places.console) == 200
    page = httpx.get(f"{places.console}/forecasts")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


# -- forecasts ---------------------------------------------------------------------------------


def test_a_series_is_found_and_opened_by_keyboard(at: Callable[[str], Browser]) -> None:
    page = at("/forecasts")
    page.press("/")
    page.press("rye harb")
    page.wait("document.querySelectorAll('a.found').length === 2")
    assert page.run("return location.search") == "?q=rye+harb"
    page.press(DOWN + DOWN)
    name = page.run("return document.activeElement.innerText")
    page.press(ENTER)
    page.wait("document.querySelector('h1').innerText === arguments[0]", name)
    page.wait(QUIET)
    assert page.complaints() == []


def test_history_and_band_are_drawn_and_nothing_comes_from_elsewhere(
    at: Callable[[str], Browser], places: Places
) -> None:
    page = at(SERIES)
    page.wait("document.querySelector('.chart').data?.length > 5")
    sold, low, high = (page.run(TRACE, name) for name in ("Sold", "10 %", "80 % band"))
    assert len(sold["x"]) == DAYS
    assert len(low["y"]) == len(high["y"]) == 14
    assert any(a < b for a, b in zip(low["y"], high["y"], strict=True))
    page.wait("document.querySelector('.chart .xtick text')")
    loaded = page.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert all(one.startswith((places.console, "data:")) for one in loaded), loaded
    assert page.complaints() == []


def test_a_what_if_is_asked_by_slider_and_kept_in_the_address(
    at: Callable[[str], Browser],
) -> None:
    page = at(SERIES)
    slider = "document.querySelector('[data-name=promotion] [tabindex]')"
    page.wait("document.querySelector('.chart').data?.length > 5")
    page.run(f"{slider}.focus()")
    page.press(RIGHT * 4)
    says(page, "Promotion: 20 % of the bucket")
    page.wait("document.querySelector('.chart').data.some((t) => t.name === 'What if')")
    assert "promotion=0.2" in page.url
    page.reload()
    page.wait("document.querySelector('.chart')?.data?.some((t) => t.name === 'What if')")
    says(page, "units over 14 buckets")


def test_the_parts_of_a_forecast_add_up_to_its_mean(at: Callable[[str], Browser]) -> None:
    page = at(SERIES + "&step=7")
    rows = page.run(
        "return [...document.querySelectorAll('[aria-label=\"Parts of the forecast\"] tbody tr')]"
        ".map((row) => row.lastElementChild.innerText)"
    )
    numbers = [float(one.replace("−", "-").replace(",", "")) for one in rows]
    assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.5)


def test_why_a_forecast_moved_is_told_between_any_two_snapshots(
    at: Callable[[str], Browser], places: Places, clean_until: str
) -> None:
    page = at(SERIES)
    says(page, "Buckets closed since")
    kept = httpx.get(f"{places.api}v1/snapshots?limit=200").json()["items"]
    before = next(one["id"] for one in kept if one["as_of"] and one["as_of"] <= clean_until)
    page = at(f"{SERIES}&since={before}")
    page.wait("document.querySelector('[aria-label=\"Parts of the change\"]')")
    rows = page.run(
        "return [...document.querySelectorAll('[aria-label=\"Parts of the change\"] tbody tr')]"
        ".map((row) => row.lastElementChild.innerText)"
    )
    numbers = [float(one.replace("−", "-").replace(",", "")) for one in rows]
    assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.5)
    assert "till-2" in page.text("[aria-label='Buckets closed since']")
    assert page.complaints() == []


def test_a_new_sale_shows_without_a_reload(at: Callable[[str], Browser], places: Places) -> None:
    page = at(f"/forecasts?store={STORE.replace(' ', '+')}&product=Rye+bread")
    page.run("window.same = true")
    page.wait("document.querySelector('.live').innerText === 'Live'")
    before = float(page.text(".figure"))
    post(places.api, [sale("Rye bread", today() + timedelta(seconds=2), 4, "live")])
    page.wait("document.querySelector('.figure').innerText === arguments[0]", f"{before + 4:g}")
    assert page.run("return window.same") is True


def test_an_unknown_series_and_a_horizon_out_of_bounds_say_what_to_do(
    at: Callable[[str], Browser],
) -> None:
    page = at("/forecasts?store=Harbour&product=Rye+bred")
    assert "Unknown series" in page.text("#content")
    assert "Harbour/Rye bread" in page.text("#content")
    assert "1 to 28" in at(SERIES + "&horizon=99").text("#content")


def test_a_name_that_is_markup_stays_text(at: Callable[[str], Browser]) -> None:
    page = at("/forecasts")
    assert EVIL in page.text("#content")
    assert page.run("return [window.harmed ?? 0, document.images.length]") == [0, 0]


# -- quality, models, inputs -------------------------------------------------------------------


def test_scores_stand_beside_seasonal_naive_by_slice_too(at: Callable[[str], Browser]) -> None:
    page = at("/quality?metric=wape&slice=store")
    said = page.text("#content")
    assert "seasonal_naive" in said
    assert "Less error than naive" in said
    assert HARBOUR in said and STORE in said
    page.wait("document.querySelectorAll('.chart .scatterlayer .trace').length >= 4")
    assert page.complaints() == []


def test_models_are_compared_with_what_is_served(at: Callable[[str], Browser]) -> None:
    said = at("/models?horizon=7").text("#content")
    assert "served" in said and "river_plain" in said
    assert page_current(at("/models")) == "Models"


def test_a_promotion_that_may_not_be_is_refused_with_the_gate_that_fails(
    at: Callable[[str], Browser],
) -> None:
    page = at("/models")
    says(page, "river_plain may not be promoted")
    click(page, "Promote…")
    page.wait("document.querySelector('.action')")
    fill(page, "reason", "it looks better")
    fill(page, "who", "ada")
    click(page, "Preview")
    page.wait("document.querySelector('.action .notice.error')?.innerText.includes('evidence')")
    assert page.run("return document.querySelector('.action button.danger')") is None


def page_current(page: Browser) -> str:
    return str(page.run("return document.querySelector('nav [aria-current]').innerText"))


def test_a_late_item_is_seen_with_its_bytes_and_mended(
    at: Callable[[str], Browser], places: Places
) -> None:
    old = today() - timedelta(days=DAYS - 2)
    post(places.api, [sale("Rye bread", old, 7, "late")])
    eventually("it is late", lambda: httpx.get(f"{places.api}v1/dead-letters").json()["items"])
    page = at("/inputs")
    page.wait("[...document.querySelectorAll('a')].some((a) => a.innerText === 'late')")
    click(page, "late")
    page.wait("document.querySelector('pre.bytes')")
    assert '"id":"Rye bread-late"' in page.text("pre.bytes")
    click(page, "Mend and send again…")
    fill(page, "set", f"time={(today() + timedelta(seconds=5)).isoformat()}")
    fill(page, "reason", "the till's clock was wrong")
    fill(page, "who", "ada")
    click(page, "Preview")
    says(page, "1 of 1 would be sent again")
    assert httpx.get(f"{places.api}v1/dead-letters").json()["items"]
    click(page, "Send again")
    says(page, "1 of 1 sent again")
    click(page, "Close")
    says(page, "None of these.")
    assert httpx.get(f"{places.api}v1/dead-letters").json()["items"] == []


# -- operations --------------------------------------------------------------------------------


def test_freeze_and_resume_are_done_and_told_everywhere(
    at: Callable[[str], Browser], places: Places
) -> None:
    page = at("/snapshots?do=freeze")
    fill(page, "who", "ada")
    click(page, "Preview")
    says(page, "Give the reason.")
    fill(page, "reason", "prices look wrong")
    click(page, "Preview")
    says(page, "Nothing has been done yet.")
    assert httpx.get(f"{places.api}v1/status").json()["partitions"][0]["frozen"] is False
    click(page, "Freeze")
    says(page, "Freeze: done")
    click(page, "Close")
    page.wait("!location.search.includes('do=')")
    says(page, "Frozen")
    page = at(SERIES)
    says(page, "Frozen by an operator")
    page = at("/snapshots?do=resume")
    fill(page, "reason", "they were right")
    # The browser's tab remembers who.
    page.wait("document.querySelector('.action [data-name=who]').value === 'ada'")
    click(page, "Preview")
    click(page, "Resume")
    says(page, "Resume: done")

    def follows() -> bool:
        return httpx.get(f"{places.api}v1/status").json()["partitions"][0]["frozen"] is False

    eventually("the API follows the head again", follows)  # it looks now and then


def test_a_whole_rollback_without_a_source_is_clicked_through(
    at: Callable[[str], Browser], places: Places
) -> None:
    assert forecast(places.api) > 60
    page = at("/inputs")
    # The guard names the suspect, and its command is a form that is filled in already.
    says(page, "till-2 is suspect")
    assert "--replay --exclude-source till-2" in page.text("pre.bytes")
    click(page, "Rollback…")
    page.wait("document.querySelector('.action [data-name=to]')?.value")
    fill(page, "reason", "till-2 sends everything fifty times")
    fill(page, "who", "ada")
    click(page, "Preview")
    says(page, "Nothing has been done yet.")
    says(page, f"{len(PRODUCTS) * POISONED} items (till-2 {len(PRODUCTS) * POISONED})")
    assert forecast(places.api) > 60
    click(page, "Roll back")
    says(page, "Roll back: done")
    eventually("the poison is gone", lambda: 0 < forecast(places.api) < 40)
    click(page, "Close")
    # The tree has a second lane, and names who did it and why.
    page.wait("new Set([...document.querySelectorAll('.lineage circle')]"
              ".map((c) => c.getAttribute('cx'))).size === 2")  # fmt: skip
    says(page, "rollback by ada: till-2 sends everything fifty times")

    page = at("/inputs")
    says(page, "source till-2")
    click(page, "Items")
    says(page, f"Rye bread-h{POISONED}")

    page = at("/audit?kind=rollback")
    says(page, "till-2 sends everything fifty times")
    trail = httpx.get(f"{places.console}/audit.export?as=csv&kind=rollback").text
    assert "without source till-2" in trail
    assert "frozen" not in trail

    page = at("/inputs")
    click(page, "Readmit")
    fill(page, "reason", "it was a real rush after all")
    fill(page, "who", "ada")
    click(page, "Preview")
    says(page, "Records to learn again")
    click(page, "Readmit")
    says(page, "Readmit: done")
    eventually("it is learned after all", lambda: forecast(places.api) > 60)


def test_a_form_can_be_filled_by_an_address_and_left_by_keyboard(
    at: Callable[[str], Browser],
) -> None:
    page = at("/snapshots?do=rollback&to=2025-03-01T00%3A00%3A00Z&source=till-2&store=Harbour")
    page.wait("document.querySelector('.action [data-name=to]')?.value")
    assert page.run("return document.querySelector('.action [data-name=to]').value") == (
        "2025-03-01T00:00:00Z"
    )
    says(page, "till-2")
    page.wait("document.activeElement.closest('.q-dialog')")
    page.press(TAB * 12)
    assert page.run("return document.activeElement.closest('.q-dialog') !== null")
    page.press(ESCAPE)
    page.wait("!document.querySelector('.action')")
    page.wait("!location.search.includes('do=')")
    assert page.complaints() == []


def test_a_snapshot_has_an_address(at: Callable[[str], Browser], places: Places) -> None:
    name = httpx.get(f"{places.api}v1/status").json()["partitions"][0]["snapshot"]
    page = at(f"/snapshots?snapshot={name}")
    says(page, "Digest")
    assert page.text(".detail h2") == name


# -- a phone -----------------------------------------------------------------------------------


def test_nothing_is_wider_than_a_phone(at: Callable[[str], Browser], window: Browser) -> None:
    window.emulate("Emulation.setDeviceMetricsOverride", width=360, height=740,
                   deviceScaleFactor=1, mobile=True)  # fmt: skip
    try:
        for path in (*PAGES, SERIES, "/snapshots?do=rollback"):
            page = at(path)
            assert page.run("return document.documentElement.scrollWidth") <= 360, path
    finally:
        window.emulate("Emulation.clearDeviceMetricsOverride")


# -- an API with a key, and one that goes away ---------------------------------------------------


@contextmanager
def serving(app: FastAPI, port: int) -> Iterator[None]:
    """The application on a port of its own choosing, so that it can come back to it."""
    server = Server(app, "127.0.0.1", port)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually("it is up", lambda: httpx.get(f"http://127.0.0.1:{port}/livez").is_success)
        yield
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, int, str]]:
    """Hand-made snapshots behind a key, a port, and a console that looks for the API there."""
    folder: Path = tmp_path_factory.mktemp("lonely")
    deployment = Deployment(folder, api_key="s3cret")
    for partition in range(2):
        deployment.publish(partition, 10)
    port = free_port("127.0.0.1")
    try:
        api = f"http://127.0.0.1:{port}"
        with started(folder, "console", "--api", api, "--port", "0") as log:
            yield deployment, port, said(log, r"console +(http://\S+?)/?\n")
    finally:
        deployment.close()


def test_without_an_api_the_console_says_so_and_goes_on_by_itself(
    window: Browser, lonely: tuple[Deployment, int, str]
) -> None:
    deployment, port, console = lonely
    page = shown(window, f"{console}/snapshots")
    says(page, "The API cannot be reached")
    page.wait("document.querySelector('.live').innerText === 'API down'")
    with ExitStack() as stack:
        stack.enter_context(serving(deployment.app(), port))
        says(page, "Served now")
        says(page, "p0-l0-o10")
        page.wait("!document.body.innerText.includes('cannot be reached')")
    # It went away again: what was known stays, and is marked.
    says(page, "Shown is what it said at")
    says(page, "p0-l0-o10")
    assert page.run("return document.querySelectorAll('section.stale').length") > 0
    with serving(deployment.app(), port):
        page.wait("!document.querySelector('section.stale')")


class Stranger(BaseHTTPRequestHandler):
    """Answers everything with an object that says nothing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_an_api_of_another_kind_is_an_error_that_says_so(
    window: Browser, lonely: tuple[Deployment, int, str]
) -> None:
    _, port, console = lonely
    with ThreadingHTTPServer(("127.0.0.1", port), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            page = shown(window, f"{console}/snapshots")
            says(page, "This part cannot be shown")
            says(page, "Use a console and an API of one version")
        finally:
            server.shutdown()
            thread.join()


def test_a_key_is_asked_for_refused_if_wrong_and_remembered_by_the_tab_alone(
    window: Browser, lonely: tuple[Deployment, int, str]
) -> None:
    deployment, port, console = lonely

    def freeze() -> Browser:
        page = shown(window, f"{console}/snapshots?do=freeze")
        fill(page, "reason", "a test")
        return page

    with serving(deployment.app(), port):
        page = freeze()
        fill(page, "who", "ada")
        click(page, "Preview")
        says(page, "Writes need a key")
        fill(page, "key", "wrong")
        click(page, "Preview")
        says(page, "the API key is missing or wrong")
        fill(page, "key", "s3cret")
        click(page, "Preview")
        says(page, "Nothing has been done yet.")
        page = freeze()
        page.wait("document.querySelector('.action [data-name=who]').value === 'ada'")
        click(page, "Preview")
        says(page, "Nothing has been done yet.")
        assert page.run("return document.cookie") == ""
        kept: Any = page.run("return JSON.stringify([{...localStorage}, {...sessionStorage}])")
        assert "s3cret" not in kept + page.run("return document.documentElement.outerHTML")
