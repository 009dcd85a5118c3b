"""The page in a real browser, over a real ``salescast up``: log, learner and API on free ports."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from tests.browser.parts import STORE, eventually, post, running_up, sale, today
from tests.browser.webdriver import DOWN, ENTER, PATIENCE_S, UP, Browser, absent, browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(absent()), reason=f"no browser to drive: {absent()}"),
]

DAYS = 40
#: A name that would run as markup, were it ever treated as such.
EVIL = "<img src=x onerror='window.harmed=1'>"
PRODUCTS = {"Rye bread": 9, "Rye rolls": 5, "Espresso": 7, EVIL: 2, "Half/half": 3}
MISSING_DAY = 11  # days ago on which the store sent nothing
BAND = "document.querySelector('#chart')?.data?.find((t) => t.name === '90 %')"
QUIET = "!document.querySelector('main[aria-busy]')"
TRACE = """
  const trace = document.querySelector('#chart').data.find((t) => t.name === arguments[0]);
  return {x: [...trace.x], y: [...trace.y]};
"""


@pytest.fixture(scope="module")
def empty_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Salescast that has seen nothing yet."""
    with running_up(tmp_path_factory.mktemp("page")) as (url, _):
        yield url


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """One browser for all tests of the page."""
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def page_url(empty_url: str) -> str:
    """Address of a Salescast that forecasts; filled through its own API."""
    start = today()
    for day in range(DAYS, 0, -1):
        noon = start - timedelta(days=day) + timedelta(hours=12)
        if day != MISSING_DAY:
            post(empty_url, [sale(p, noon, n + day % 7, day) for p, n in PRODUCTS.items()])
    # A sale of today closes all days before it.
    post(empty_url, [sale("Rye bread", start + timedelta(seconds=1), 3, 0)])

    def known() -> bool:
        answer = httpx.get(f"{empty_url}v1/series").json()
        history = httpx.get(f"{empty_url}v1/history/{STORE}/Rye bread").json()
        last = (start - timedelta(days=1)).isoformat()[:10]
        closed = str(history["items"][-1]["start"])[:10] if "items" in history else ""
        return bool(answer["total"] == len(PRODUCTS) and closed == last)

    eventually("all days are closed", known)
    return empty_url


@pytest.fixture
def page(window: Browser, page_url: str) -> Browser:
    """The page, freshly loaded, with an empty console."""
    window.open("about:blank")
    window.open(page_url)
    window.wait("document.querySelector('main h1') && " + QUIET)
    window.complaints()
    return window


def choose(page: Browser, product: str) -> None:
    """Open a series by its address and wait for its chart."""
    page.run(
        "location.hash = '#/forecast?' + new URLSearchParams({store: arguments[0], "
        "product: arguments[1]})", STORE, product,
    )  # fmt: skip
    page.wait(f"document.querySelector('h1').textContent === arguments[0] && {QUIET}", product)
    page.wait(BAND)


def test_an_empty_salescast_says_how_to_send_the_first_sale(
    window: Browser, empty_url: str
) -> None:
    if httpx.get(f"{empty_url}v1/status").json()["partitions"][0]["log_end"]:
        pytest.fail("must run before anything is sent")
    window.open(empty_url)
    window.wait("document.querySelector('.command code')")
    assert window.text("h1") == "No sales yet"
    assert f"curl -X POST {empty_url}v1/events" in window.text(".command code")
    assert window.complaints() == []


def test_a_series_is_found_by_typing_and_opened_by_keyboard(page: Browser) -> None:
    page.press("/")
    assert page.run("return document.activeElement.id") == "q"
    page.press("rye main")
    page.wait("document.querySelectorAll('#results li').length === 2")
    assert page.run("return document.querySelector('#q').getAttribute('aria-expanded')") == "true"
    page.press(DOWN + UP + DOWN)
    assert page.text("#results [aria-selected=true] .result-name") == "Rye rolls"
    page.press(ENTER)
    page.wait("document.querySelector('h1').textContent === 'Rye rolls'")
    page.wait(BAND)
    assert page.url.endswith("#/forecast?store=Main+Street&product=Rye+rolls")
    assert page.complaints() == []


def test_the_chart_shows_every_bucket_and_the_missing_one_as_missing(page: Browser) -> None:
    choose(page, "Rye bread")
    units, missing = page.run(TRACE, "Units"), page.run(TRACE, "Missing")
    assert len(units["x"]) == DAYS - 1
    gone = (today() - timedelta(days=MISSING_DAY)).isoformat()[:10]
    assert [x[:10] for x in missing["x"]] == [gone]
    assert gone not in {x[:10] for x in units["x"]}
    assert units["y"][-1] == PRODUCTS["Rye bread"] + 1
    assert page.complaints() == []


def test_a_planned_promotion_is_shaded_where_it_is_forecast(page: Browser, page_url: str) -> None:
    start, end = (today() + timedelta(days=days) for days in (3, 5))
    plan = {"product": "Espresso", "start": start.isoformat(), "end": end.isoformat(),
            "promotion": 0.5}  # fmt: skip
    httpx.put(f"{page_url}v1/plans/offer", json=plan).raise_for_status()
    choose(page, "Espresso")
    promoted = page.run(TRACE, "Promotion")
    assert [x[:10] for x in promoted["x"]] == [
        (today() + timedelta(days=days)).isoformat()[:10] for days in (3, 4)
    ]
    assert page.complaints() == []


def test_dates_of_another_year_say_which(page: Browser) -> None:
    say = "return import(new URL('static/format.js', location.href)).then((f) => f.{})"
    assert page.run(say.format("bucket('2017-05-28T00:00:00-04:00', 'day')")) == "Sun 28 May 2017"
    assert "2017" in page.run(say.format("moment('2017-05-28T12:00:00Z', 'UTC')"))
    now = today()
    told = page.run(say.format(f"bucket('{now.isoformat()}', 'day')"))
    assert str(now.day) in told and str(now.year) not in told


def test_a_partition_far_behind_its_log_is_catching_up_and_not_well(
    page: Browser, page_url: str
) -> None:
    page.run("""
      const ask = window.fetch;
      window.fetch = async (path, options) => {
        const answer = await ask(path, options);
        if (!String(path).includes('v1/status')) return answer;
        const body = await answer.json();
        Object.assign(body.partitions[0], {lag: 4321, catching_up: true});
        return new Response(JSON.stringify(body), {headers: answer.headers});
      };
      location.hash = '#/status';
    """)
    page.wait("document.querySelector('h1').textContent === 'Catching up'")
    assert "4,321 records" in page.text("main") and "All well" not in page.text("main")


def test_the_forecast_has_a_band_around_it_and_the_numbers_in_a_table(page: Browser) -> None:
    choose(page, "Rye bread")
    low, median, high = (page.run(TRACE, name) for name in ("10 %", "Median", "90 %"))
    assert len(median["x"]) == 14
    assert median["x"][0][:10] == today().isoformat()[:10]
    rows = list(zip(low["y"], median["y"], high["y"], strict=True))
    assert all(a <= b <= c for a, b, c in rows)
    assert any(a < c for a, _, c in rows)
    assert page.run("return document.querySelectorAll('.steps tbody tr').length") == 14


def test_an_address_shows_the_same_again_after_a_reload(page: Browser) -> None:
    choose(page, "Rye bread")
    page.run(
        "[...document.querySelectorAll('.choices a')].find((a) => a.text === '7 days').click()"
    )
    page.wait("document.querySelectorAll('.steps tbody tr').length === 7")
    assert page.url.endswith("store=Main+Street&product=Rye+bread&horizon=7")
    before = page.text(".steps")
    page.reload()
    page.wait(BAND)
    assert page.text("h1") == "Rye bread"
    assert page.text(".steps") == before
    assert len(page.run(TRACE, "Mean")["x"]) == 7
    assert page.complaints() == []


def test_a_new_sale_shows_without_a_reload_and_keeps_zoom_and_focus(
    page: Browser, page_url: str
) -> None:
    choose(page, "Rye bread")
    page.run("window.same = true")
    zoom = "document.querySelector('#chart').layout.xaxis.range"
    whole = page.run(f"return {zoom}")
    left, top, width, height = page.run(
        "const box = document.querySelector('#chart .nsewdrag').getBoundingClientRect();"
        "return [box.x, box.y, box.width, box.height]"
    )
    middle = top + height / 2
    page.drag((left + 0.5 * width, middle), (left + 0.8 * width, middle + 5))
    page.wait(f"{zoom}[0] > arguments[0]", whole[0])
    shown = page.run(f"return {zoom}")
    page.run("document.querySelector('.choices a[href$=\"horizon=28\"]').focus()")
    before = float(page.text(".figure"))
    post(page_url, [sale("Rye bread", today() + timedelta(seconds=2), 4, time.monotonic_ns())])
    page.wait("document.querySelector('.figure').textContent === arguments[0]", f"{before + 4:g}")
    assert page.run(TRACE, "Sold so far")["y"][0] == before + 4
    assert page.run("return window.same") is True
    assert page.run("return document.activeElement.href").endswith("horizon=28")
    assert page.run(f"return {zoom}") == shown
    assert page.text("#live") == "Live"
    assert page.complaints() == []


def test_without_server_sent_events_the_page_polls(page: Browser, page_url: str) -> None:
    page.emulate("Network.enable")
    page.emulate("Network.setBlockedURLs", urls=["*/v1/updates"])
    try:
        page.reload()
        page.wait("document.querySelector('#live').textContent === 'Polling'")
        choose(page, "Rye bread")
        before = float(page.text(".figure"))
        post(page_url, [sale("Rye bread", today() + timedelta(seconds=3), 2, time.monotonic_ns())])
        page.wait("document.querySelector('.figure').textContent === arguments[0]",
                  f"{before + 2:g}")  # fmt: skip
    finally:
        page.emulate("Network.setBlockedURLs", urls=[])


def test_an_unknown_series_shows_the_near_ones(page: Browser) -> None:
    page.run("location.hash = '#/forecast?store=Main+Street&product=Rye+bred'")
    page.wait("document.querySelector('.near a')")
    assert "No such series" in page.text("main")
    page.run("document.querySelector('.near a').click()")
    page.wait(BAND)
    assert page.text("h1") == "Rye bread"
    # The browser itself reports the answers of 404; nothing else is said.
    assert all("404" in line for line in page.complaints())


def test_a_horizon_out_of_bounds_is_answered_with_the_bounds(page: Browser) -> None:
    page.run("location.hash = '#/forecast?store=Main+Street&product=Rye+bread&horizon=99'")
    page.wait("document.querySelector('main').innerText.includes('from 1 to 28')")


def test_a_name_that_is_markup_stays_text(page: Browser) -> None:
    choose(page, EVIL)
    page.press("/")
    page.press("img")
    page.wait("document.querySelectorAll('#results li').length === 1")
    assert page.text("h1") == EVIL
    assert page.run("return [window.harmed ?? 0, document.images.length]") == [0, 0]


def test_a_name_may_hold_a_slash(page: Browser) -> None:
    choose(page, "Half/half")
    assert len(page.run(TRACE, "Units")["x"]) == DAYS - 1


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        ("#/quality?metric=wape", "seasonal naive"),
        ("#/snapshots", "active"),
        ("#/snapshots?limit=1050", "active"),
        ("#/status", "Serving"),
    ],
)
def test_every_view_has_an_address(page: Browser, page_url: str, view: str, shown: str) -> None:
    page.open("about:blank")
    page.open(page_url + view)
    page.wait(
        "document.querySelector('main table')?.innerText.includes(arguments[0])",
        shown, patience_s=PATIENCE_S,
    )  # fmt: skip
    assert page.complaints() == []


def test_who_skips_to_the_content_stays_in_the_view(page: Browser, page_url: str) -> None:
    page.open(f"{page_url}#/status")
    page.wait("document.querySelector('main table')?.innerText.includes('Serving')")
    before = page.text("h1")
    page.run("document.querySelector('.skip').focus()")
    page.press(ENTER)
    page.wait("document.activeElement.id === 'main'")
    assert (page.text("h1"), page.url) == (before, f"{page_url}#/status")


def test_a_snapshot_has_an_address(page: Browser) -> None:
    page.run("location.hash = '#/snapshots'")
    page.wait("document.querySelector('td a')")
    name = page.text("td a")
    page.run("document.querySelector('td a').click()")
    page.wait("document.querySelector('h1').textContent === arguments[0]", name)
    page.wait("document.querySelector('main').innerText.includes('Versions')")


def test_the_interactive_api_shows_every_call(page: Browser, page_url: str) -> None:
    page.open(f"{page_url}docs")
    paths = httpx.get(f"{page_url}openapi.json").json()["paths"]
    calls = sum(len(methods) for methods in paths.values())
    page.wait("document.querySelectorAll('.opblock').length === arguments[0]", calls)
    loaded = page.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert loaded and all(one.startswith((page_url, "data:")) for one in loaded), loaded
    assert page.complaints() == []


def test_nothing_is_wider_than_a_phone(page: Browser, page_url: str) -> None:
    page.emulate("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1,
                 mobile=True)  # fmt: skip
    try:
        choose(page, "Rye bread")
        for view in ("", "#/quality", "#/snapshots", "#/status"):
            page.run("location.hash = arguments[0] || location.hash", view)
            page.wait(QUIET)
            assert page.run("return document.documentElement.scrollWidth") <= 360, view
    finally:
        page.emulate("Emulation.clearDeviceMetricsOverride")
