"""What all pages share: the frame, and sections that load, refresh and say when they cannot.

A section shows a skeleton until its first answer. Afterwards it keeps what it shows: while the
API cannot be reached it says so, and since when, above what was last known.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from api.console.client import Api, ApiDown, ApiError
from api.console.formats import address, notice, text
from api.console.live import Live

logger = logging.getLogger(__name__)

NAVIGATION = {
    "Forecasts": "/forecasts",
    "Quality": "/quality",
    "Snapshots": "/snapshots",
    "Inputs": "/inputs",
    "Models": "/models",
    "Audit": "/audit",
}
#: A page looks this often whether there is news, and asks at most as often as the next, s.
TICK_S, SPACING_S = 0.5, 1.5
_STATES = {
    "connecting": ("Connecting", "off"),
    "live": ("Live", "live"),
    "polling": ("Polling", "polling"),
    "down": ("API down", "offline"),
}


_STRANGE = notice(
    "This part cannot be shown",
    "The API answered otherwise than this console understands; its log says more.",
    "Use a console and an API of one version.",
    kind="error",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """What a console's pages work with."""

    api: Api
    live: Live


def markup(content: str, classes: str = "") -> ui.html:
    """Markup as an element; the browser cleans it once more."""
    made = ui.html(content)
    return made.classes(classes) if classes else made


def button(label: str, act: Callable[[], Any], kind: str = "") -> TextElement:
    """A plain button: what it does is said by its label, for the keyboard and readers alike."""
    made = TextElement(tag="button", text=label)
    made.props("type=button").classes(kind)
    made.on("click", act)
    return made


class Section:
    """A part of a page that stands on answers of the API.

    Parameters
    ----------
    load
        Asks the API.
    draw
        Shows what it said; into an empty box, unless ``keep``.
    every_s
        Asked again after so long, besides when there is news.
    keep
        ``draw`` changes elements that are there already, which the box is never emptied of.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[Any]],
        draw: Callable[[Any], None],
        *,
        every_s: float = 15.0,
        keep: bool = False,
    ) -> None:
        self._load, self._draw, self._keep, self._every_s = load, draw, keep, every_s
        self._shown: str | None = None
        self._number, self._asked = -1, datetime.min.replace(tzinfo=UTC)
        self._answered: datetime | None = None
        with ui.element("section").props("aria-busy=true") as self.element:
            self._fault = markup("")
            self.body = ui.element("div").classes("body")
            if not keep:
                with self.body:
                    markup('<div class="skeleton"><span></span><span></span><span></span></div>')

    def due(self, number: int, now: datetime) -> bool:
        """Whether to ask again, given the number of the news."""
        since = (now - self._asked).total_seconds()
        return since >= self._every_s or (number != self._number and since >= SPACING_S)

    def invalidate(self) -> None:
        """Ask again at the next occasion: something was chosen, or done."""
        self._asked = datetime.min.replace(tzinfo=UTC)

    async def refresh(self, number: int = -1) -> None:
        """Ask, and show the answer or why there is none."""
        self._number, self._asked = number, datetime.now(UTC)
        try:
            value = await self._load()
            shown = json.dumps(value, default=str)
            if shown != self._shown:
                self._redraw(value)
                self._shown = shown
        except ApiDown as error:
            self._say_down(str(error))
        except ApiError as error:
            self._say(error_notice(error))
        except (KeyError, TypeError, ValueError):
            logger.exception("an answer that was not understood")
            self._say(_STRANGE)
        else:
            self._say("")
            self._answered = datetime.now(UTC)
            self.element.classes(remove="stale")
        self.element.props("aria-busy=false")

    def _redraw(self, value: Any) -> None:
        if not self._keep:
            self.body.clear()
        with self.body:
            self._draw(value)

    def _say_down(self, why: str) -> None:
        if self._answered is None:
            self._say(
                notice(
                    "The API cannot be reached",
                    text(why),
                    "Start it with <code>salescast api</code> or <code>salescast up</code>. "
                    "This page tries again by itself.",
                    kind="error",
                )
            )
            if not self._keep:
                self.body.clear()
            return
        self.element.classes("stale")
        self._say(
            notice(
                "The API cannot be reached",
                f"Shown is what it said at {self._answered:%H:%M:%S} UTC. It is tried again.",
                kind="warn",
            )
        )

    def _say(self, content: str) -> None:
        if self._fault.content != content:
            self._fault.set_content(content)


def error_notice(error: ApiError) -> str:
    """A refusal as markup: what, why, and what to do."""
    near = f"Near it: {text(', '.join(error.near))}" if error.near else ""
    return notice(error.title, text(error.detail), text(error.remedy), near, kind="error")


class Page:
    """One page in one browser: its frame, its sections, and what its address holds."""

    def __init__(
        self, console: Console, name: str, path: str, query: dict[str, Any], title: str = ""
    ) -> None:
        self.console, self.api = console, console.api
        self.path, self.query = path, query
        self._sections: list[Section] = []
        ui.page_title(f"{title or name}: Salescast")
        self._frame(name)
        # After the answer is out: a slow API must not keep the page from showing.
        ui.timer(TICK_S, self._tick)

    def _frame(self, name: str) -> None:
        markup('<a class="skip" href="#content">Skip to the content</a>')
        links = "".join(
            f'<a href="{where}"{" aria-current=page" if one == name else ""}>{one}</a>'
            for one, where in NAVIGATION.items()
        )
        with ui.element("header").classes("top"), ui.element("div").classes("top-inner console"):
            markup('<a class="wordmark" href="/">Salescast</a>')
            ui.html(links, tag="nav").props("aria-label=Pages")
            self._state = TextElement(tag="p", text="Connecting")
            self._state.classes("live").props("role=status data-state=off")
        # Quasar's page is the `main` around it.
        self.main = ui.element("div").classes("content").props("id=content tabindex=-1")

    def hold(self, **changes: Any) -> None:
        """Put what was chosen into the address, without leaving the page."""
        self.query.update(changes)
        ui.navigate.history.replace(self.address())

    def address(self, **changes: Any) -> str:
        """The address of this page, with changes."""
        return address(self.path, {**self.query, **changes})

    def section(
        self,
        load: Callable[[], Awaitable[Any]],
        draw: Callable[[Any], None],
        *,
        every_s: float = 15.0,
        keep: bool = False,
    ) -> Section:
        """Add a section that is kept up to date."""
        made = Section(load, draw, every_s=every_s, keep=keep)
        self._sections.append(made)
        return made

    def invalidate(self) -> None:
        """Everything is asked for again: something was done."""
        for one in self._sections:
            one.invalidate()

    async def _tick(self) -> None:
        live = self.console.live
        label, kind = _STATES[live.state]
        if self._state.text != label:
            self._state.set_text(label)
            self._state.props(f"data-state={kind}")
        number = live.number
        for one in self._sections:
            if one.due(number, datetime.now(UTC)):
                await one.refresh(number)


@contextmanager
def heading(title: str, lead: str = "") -> Any:
    """A page's head; what is inside stands at its right."""
    with ui.element("header").classes("series-head"):
        with ui.element("div"):
            markup(
                f"<h1>{text(title)}</h1>" + (f'<p class="lead">{text(lead)}</p>' if lead else "")
            )
        with ui.element("div").classes("actions"):
            yield


def choices(label: str, options: list[tuple[str, str, bool]]) -> str:
    """Choices as links, as markup: (text, address, whether it is the present one)."""
    links = "".join(
        f'<a href="{text(href)}"{" aria-current=true" if on else ""}>{text(one)}</a>'
        for one, href, on in options
    )
    return f'<div class="choices"><span class="choices-label">{text(label)}</span>{links}</div>'
