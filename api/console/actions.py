"""How anything is done from the console: a form with its reason, what it would do, then doing it.

1. The form: what is meant, why, who. 2. The API's dry run of exactly that. 3. The same request
with an id of its own, so that repeating it does nothing; and what becomes of it.
Leaves out: what each operation asks for; a page gives the fields.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from nicegui import app, ui

from api.console.client import ApiDown, ApiError
from api.console.formats import address, facts, link, notice, number, percent, table, text
from api.console.page import Page, button, error_notice, markup
from api.console.trail import excluded

OPERATIONS, LETTERS = "/v1/operations", "/v1/dead-letters"
#: How often the outcome of an operation is looked for, s.
FOLLOW_S = 0.7


class Action:
    """A dialog that carries out one kind of request.

    Parameters
    ----------
    title, lead
        What it does, in a few words and in a sentence.
    verb
        What the button says that does it.
    fields
        Builds the form's own fields; gives a function that says the request's part from them, or
        raises ``ValueError`` with what is missing.
    path
        Where the request goes.
    """

    def __init__(
        self,
        page: Page,
        title: str,
        lead: str,
        verb: str,
        fields: Callable[[], Callable[[], dict[str, Any]]],
        path: str = OPERATIONS,
    ) -> None:
        self._page, self._path, self._verb, self._title = page, path, verb, title
        self._request: dict[str, Any] = {}
        self._key = ""
        self._said: ui.html | None = None
        with ui.dialog().props(f'aria-label="{text(title)}"') as self.dialog, ui.card() as card:
            card.classes("action")
            markup(
                f"<h2>{text(title)}</h2>" + (f'<p class="muted">{text(lead)}</p>' if lead else "")
            )
            self._form = ui.element("div").classes("form")
            with self._form:
                self._collect = fields()
                self._reason = ui.input(
                    "Reason (kept in the audit trail)", value=page.query.get("reason") or ""
                ).props("outlined dense data-name=reason")
                self._who = ui.input("Who you are").props("outlined dense data-name=who")
                self._api_key = ui.input("API key", password=True).props(
                    "outlined dense autocomplete=off data-name=key"
                )
                self._api_key.set_visibility(False)
            self._result = ui.element("div").props("aria-live=polite")
            self._buttons = ui.element("div").classes("buttons")

    def open(self) -> None:
        """Show the form."""
        self._show_form()
        self.dialog.open()
        # Not when it says that it is shown: a page that opens with it may say so before the
        # connection stands, to nobody. A timer waits for that.
        with self.dialog:
            ui.timer(0, self._begin, once=True)

    async def _begin(self) -> None:
        # The tab's own memory, in this process: neither a cookie nor a file.
        kept = app.storage.tab
        self._who.value = self._who.value or kept.get("who", "")
        self._key = kept.get("key", "")
        try:
            keyed = (await self._page.api.abilities()).keyed
        except (ApiDown, ApiError):
            return  # the dry run will say so
        self._api_key.set_visibility(keyed and not self._key)

    def _show_form(self, fault: str = "") -> None:
        self._form.set_visibility(True)
        self._say(fault)
        self._choose(("Preview", self._preview, ""), ("Cancel", self.dialog.close, "quiet"))

    def _say(self, content: str) -> None:
        self._result.clear()
        if content:
            with self._result:
                markup(content)

    def _choose(self, *buttons: tuple[str, Callable[[], Any], str]) -> None:
        self._buttons.clear()
        with self._buttons:
            for label, act, kind in buttons:
                button(label, act, kind)

    def _wait(self) -> None:
        """Nothing can be clicked twice."""
        self._say("")
        self._buttons.clear()
        with self._buttons:
            markup('<p class="muted">Asking the API …</p>')

    async def _preview(self) -> None:
        """2. Ask what it would do."""
        reason, who = (self._reason.value or "").strip(), (self._who.value or "").strip()
        try:
            asked = self._collect()
            for value, what in ((reason, "Give the reason."), (who, "Say who you are.")):
                if not value:
                    raise ValueError(what)
        except ValueError as error:
            self._show_form(notice("Not yet", text(error), kind="error"))
            return
        app.storage.tab["who"] = who
        self._key = self._api_key.value or self._key
        self._request = {**asked, "reason": reason, "who": who}
        self._wait()
        answer = await self._send({**self._request, "dry_run": True})
        if answer is None:
            return
        if self._key:
            app.storage.tab["key"] = self._key  # it was right
            self._api_key.value = ""
            self._api_key.set_visibility(False)
        self._form.set_visibility(False)
        said = outcome_of_letters(answer) if self._path == LETTERS else plan_of(answer)
        self._say(
            notice("What it would do", "Nothing has been done yet.")
            + facts([("Reason", text(reason)), ("Who", text(who))])
            + said
        )
        self._choose(
            (self._verb, self._do, "danger"), ("Back", self._show_form, "quiet"),
            ("Cancel", self.dialog.close, "quiet"),
        )  # fmt: skip

    async def _do(self) -> None:
        """3. Do it, once: the id is the same if it is sent again."""
        self._request.setdefault("id", f"console-{secrets.token_hex(8)}")
        self._wait()
        answer = await self._send(self._request)
        if answer is None:
            return
        self._page.invalidate()
        if self._path == LETTERS:
            self._say(notice("Done", kind="good") + outcome_of_letters(answer))
            self._choose(("Close", self.dialog.close, ""))
            return
        self._follow(answer)
        if answer["state"] == "pending":
            with self._result:
                timer = ui.timer(FOLLOW_S, lambda: self._look(answer["id"], timer))

    async def _look(self, operation: str, timer: ui.timer) -> None:
        try:
            answer = await self._page.api.get(f"{OPERATIONS}/{quote(operation, safe='')}")
        except (ApiDown, ApiError):
            return  # asked again
        if answer["state"] != "pending" or not self.dialog.value:
            timer.cancel()
            self._page.invalidate()
        self._follow(answer)

    def _follow(self, answer: dict[str, Any]) -> None:
        title, kind = {
            "pending": ("Under way", ""),
            "applied": (f"{self._title}: done", "good"),
            "refused": (f"{self._title}: refused", "error"),
        }[answer["state"]]
        more = ""
        if answer["state"] == "pending":
            more = "It takes effect where the learner comes to it. This can be closed meanwhile."
        where = link(f"Operation {answer['id']}", address("/audit", {"id": answer["id"]}))
        content = notice(title, more, where, kind=kind) + outcomes_of(answer)
        if self._said is None or self._said.is_deleted:
            self._result.clear()
            with self._result:
                self._said = markup(content)
            self._choose(("Close", self.dialog.close, ""))
        else:
            self._said.set_content(content)

    async def _send(self, body: dict[str, Any]) -> Any:
        """Send a request; where it fails, back to the form with why."""
        try:
            return await self._page.api.post(self._path, body, self._key)
        except ApiDown as error:
            self._show_form(notice("The API cannot be reached", text(error), kind="error"))
        except ApiError as error:
            if error.status in (401, 403):
                self._key = ""
                app.storage.tab.pop("key", None)
                self._api_key.set_visibility(True)
            self._show_form(error_notice(error))
        return None


# -- what came of it, as markup -----------------------------------------------------------------


def plan_of(answer: dict[str, Any]) -> str:
    """What a dry run says: the cut, and what a replay would learn again and pass over."""
    preview = answer.get("preview") or {}
    rows = []
    for partition, snapshot in sorted(answer["cut"].items(), key=lambda one: int(one[0])):
        one = preview.get(partition)
        row = [partition, f'<span class="mono">{text(snapshot)}</span>']
        if preview:
            row += [number(one["records"], 0), _passed(one)] if one else ["–", "–"]
        rows.append(row)
    heads = ["Partition", "Returns to" if answer["kind"] == "rollback" else "Snapshot"]
    if preview:
        heads += ["Records to learn again", "Passed over"]
    said = table(heads, rows, label="What it would do", numbers=(2,)) if rows else ""
    about = f"<p>{text(answer['about'])}</p>" if answer["about"] else ""
    return exclusion(answer.get("exclude")) + about + said


def _passed(one: dict[str, Any]) -> str:
    total = sum(one["excluded"].values())
    if not total:
        return "nothing"
    more = "" if one["complete"] else "at least "
    by_source = ", ".join(f"{name} {number(n, 0)}" for name, n in sorted(one["excluded"].items()))
    return f"{more}{number(total, 0)} items ({text(by_source)})"


def outcomes_of(answer: dict[str, Any]) -> str:
    """What became of an operation by partition, and how far its replays have come."""
    outcomes = {str(one["partition"]): one for one in answer["outcomes"]}
    rows = []
    for partition, snapshot in sorted(answer["cut"].items(), key=lambda one: int(one[0])):
        one, replay = outcomes.get(partition), answer["progress"].get(partition)
        said = "waits" if one is None else text(f"{one['outcome']} {one['detail']}".strip())
        if replay is not None:
            said = progress(replay)
        rows.append([partition, f'<span class="mono">{text(snapshot)}</span>', said])
    return table(["Partition", "Snapshot", "Outcome"], rows, label="Outcome") if rows else ""


def progress(replay: dict[str, Any]) -> str:
    """How far a replay has come, as a bar and a text."""
    whole = max(replay["until"] - replay["start"], 1)
    done = min((replay["position"] - replay["start"]) / whole, 1.0)
    return (
        f'<progress max="1" value="{done:.3f}"></progress> learning again, '
        f"{percent(done)} of {number(whole, 0)} records"
    )


def exclusion(what: dict[str, Any] | None) -> str:
    """What is passed over, in a sentence."""
    said = excluded(what)
    return f"<p>Without {text(said)}.</p>" if said else ""


def outcome_of_letters(answer: dict[str, Any]) -> str:
    """How many letters an action takes, and which it cannot take."""
    verb = "sent again" if answer["action"] == "resend" else "discarded"
    would = "would be " if answer["dry_run"] else ""
    said = f"<p>{number(answer['done'], 0)} of {number(answer['chosen'], 0)} {would}{verb}.</p>"
    refused = answer["refused"][:20]
    if not refused:
        return said
    rows = [
        [f'<span class="mono">{text(one["receipt"])}</span>', text(one["reason"]),
         text(one.get("detail", "")), text(one.get("remedy", ""))]
        for one in refused
    ]  # fmt: skip
    return said + table(["Still refused", "Reason", "Detail", "What to do"], rows, label="Refused")
