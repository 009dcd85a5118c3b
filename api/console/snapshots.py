"""Snapshots: what is served, the lineage as a tree, and back to any of it."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from nicegui import ui
from starlette.requests import Request

from api.console import lineage, operate
from api.console.actions import progress
from api.console.client import ApiDown, ApiError
from api.console.formats import (
    address,
    ago,
    facts,
    link,
    moment,
    notice,
    number,
    size,
    standing,
    table,
    tag,
    text,
)
from api.console.page import Console, Page, choices, heading, markup
from api.console.sources import counts_of, known_sources

PATH = "/snapshots"
_ACTIONS = ("rollback", "freeze", "resume")
#: What the form of a rollback can be given: one of each, and any number.
_ONE, _MANY = (
    ("to", "since", "until", "replay", "reason"),
    ("snapshots", "source", "store", "product", "category"),
)


def install(console: Console) -> None:
    """Add the page."""

    @ui.page(PATH)
    def snapshots(request: Request, partition: int | None = None) -> None:
        query: dict[str, Any] = {"partition": partition}
        given = request.query_params
        query |= {one: given.get(one, "") for one in ("snapshot", "do", *_ONE)}
        query |= {one: given.getlist(one) for one in _MANY}
        page = Page(console, "Snapshots", PATH, query)
        with page.main:
            _Snapshots(page)


class _Snapshots:
    def __init__(self, page: Page) -> None:
        self.page = page
        query = page.query
        actions = "".join(
            link(label, address(PATH, {"partition": query["partition"], "do": one}),
                 class_="button", id=f"do-{one}")
            for one, label in (("rollback", "Roll back…"), ("freeze", "Freeze…"),
                               ("resume", "Resume…"))
        )  # fmt: skip
        with heading("Snapshots", "What is served, where it comes from, and the way back."):
            markup(actions, "buttons")
        if query["snapshot"]:
            page.section(self._load_one, self._draw_one, every_s=60.0)
        page.section(self._load_served, self._draw_served, every_s=5.0)
        page.section(self._load_tree, self._draw_tree)
        if query["do"] in _ACTIONS:
            ui.timer(0.1, self._open, once=True)

    async def _open(self) -> None:
        """The form that the address asks for; what it asks for stays there to be shared."""
        query = self.page.query
        if query["do"] == "rollback":
            sources: list[str] = []
            with suppress(ApiDown, ApiError):
                sources = await known_sources(self.page.api)
            with self.page.main:
                action = operate.rollback(self.page, query, sources)
        else:
            with self.page.main:
                action = (
                    operate.freeze(self.page, query) if query["do"] == "freeze"
                    else operate.resume(self.page)
                )  # fmt: skip
        action.open()
        action.dialog.on("hide", lambda: self.page.hold(
            do="", **dict.fromkeys(_ONE, ""), **{one: [] for one in _MANY}
        ))  # fmt: skip

    # -- served ----------------------------------------------------------------------------

    async def _load_served(self) -> dict[str, Any]:
        status: dict[str, Any] = await self.page.api.get("/v1/status")
        return {
            "partitions": [
                {name: value for name, value in one.items() if name != "age_s"}
                for one in status["partitions"]
            ],
            "store_up": status["store_up"], "log_up": status["log_up"],
        }  # fmt: skip

    def _draw_served(self, status: dict[str, Any]) -> None:
        if not status["store_up"]:
            markup(notice("The snapshot store cannot be read", "What was loaded is served on.",
                          kind="warn"))  # fmt: skip
        markup("".join(map(standing, status["partitions"])))
        rows = []
        for one in status["partitions"]:
            if one["snapshot"] is None:
                state = condition(one) if one["standstill"] else "–"
                rows.append([str(one["partition"]), "nothing yet", "–", state, "–"])
                continue
            rows.append(
                [str(one["partition"]),
                 link(one["snapshot"], address(PATH, {"partition": one["partition"],
                                                      "snapshot": one["snapshot"]}),
                      class_="mono"),
                 text(moment(one["as_of"])), condition(one), number(one["lag"], 0)]
            )  # fmt: skip
        markup(
            "<h2>Served now</h2>"
            + table(["Partition", "Snapshot", "As of", "State", "Records behind"], rows,
                    label="Served now", numbers=(4,))
        )  # fmt: skip

    # -- the tree --------------------------------------------------------------------------

    async def _load_tree(self) -> dict[str, Any]:
        trees = (await self.page.api.get("/v1/lineage"))["partitions"]
        known = [one["partition"] for one in trees]
        chosen = self.page.query["partition"]
        partition = chosen if chosen is not None else next(iter(known), None)
        scores: dict[str, Any] = {}
        if partition in known:
            items = await self.page.api.get("/v1/snapshots", partition=partition, limit=200)
            scores = {one["id"]: (_rmsse(one["scores"]), one["size_bytes"])
                      for one in items["items"]}  # fmt: skip
        nodes: list[dict[str, Any]] = next(
            (one["snapshots"] for one in trees if one["partition"] == partition), []
        )
        return {"partition": partition, "known": known, "nodes": nodes, "scores": scores}

    def _draw_tree(self, value: dict[str, Any]) -> None:
        partition, nodes = value["partition"], value["nodes"]
        markup("<h2>Lineage</h2>")
        if not value["known"] or not nodes:
            markup(
                notice("No snapshot is kept here", "The learner publishes the first one soon after "
                       "its first sales." if not value["known"] else
                       f"Partition {text(partition)} keeps none.")
            )  # fmt: skip
        if len(value["known"]) > 1:
            markup(choices("Partition", [
                (str(one), self.page.address(partition=one, snapshot=""), one == partition)
                for one in value["known"]
            ]))  # fmt: skip
        now = datetime.now(UTC)

        def tell(one: dict[str, Any]) -> str:
            return self._told(one, value["scores"].get(one["id"]), now)

        if nodes:
            markup(lineage.drawn(nodes, tell))  # type: ignore[arg-type]

    def _told(self, one: dict[str, Any], known: Any, now: datetime) -> str:
        query = self.page.query
        tags = "".join(
            tag(label, kind)
            for label, kind, on in (("active", "active", one["active"]), ("head", "", one["head"]),
                                    ("half-way", "warn", one["unfinished"]))
            if on
        )  # fmt: skip
        rmsse, bytes_ = known or (None, 0)
        said = [f"as of {moment(one['as_of'])}"]
        if rmsse is not None:
            said.append(f"RMSSE {number(rmsse, 3)}")
        said.append(ago(one["published_at"], now))
        if bytes_:
            said.append(size(bytes_))
        if one.get("promotions"):
            said.append(f"serves {one['champion']}, by promotion")
        said += [f"{each['kind']} by {each['who']}: {each['reason']}" for each in one["named_by"]]
        partition = query["partition"]
        back = address(PATH, {"partition": partition, "do": "rollback", "to": one["as_of"]})
        here = address(PATH, {"partition": partition, "snapshot": one["id"]})
        return (
            f'<div class="told"><p class="name">{link(one["id"], here, class_="mono")} {tags}</p>'
            f'<p class="muted small">{text(" · ".join(said))}</p></div>'
            + (
                link("Roll back…", back, class_="back", title=f"to {one['id']}")
                if one["as_of"]
                else ""
            )
        )

    # -- one -------------------------------------------------------------------------------

    async def _load_one(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.page.api.get(
            f"/v1/snapshots/{self.page.query['snapshot']}"
        )
        return found

    def _draw_one(self, one: dict[str, Any]) -> None:
        query = {"partition": one["partition"], "snapshots": one["id"]}
        said = facts([
            ("As of", text(moment(one["as_of"]))), ("Published", text(moment(one["published_at"]))),
            ("Position", number(one["position"], 0)), ("Lineage", str(one["lineage"])),
            ("Parent", f'<span class="mono">{text(one["parent"] or "–")}</span>'),
            ("Size", size(one["size_bytes"])),
            ("Digest", f'<span class="mono">{text(one["digest"])}</span>'),
            ("Versions", text(", ".join(f"{k} {v}" for k, v in one["versions"].items()))),
        ])  # fmt: skip
        scores = [
            [text(row["model"]), str(row["horizon"]), number(row["rmsse"], 3), number(row["n"], 0)]
            for row in one["scores"]
        ]
        markup(
            '<section class="detail"><h2 class="mono">' + text(one["id"]) + "</h2>"
            + '<div class="buttons">'
            + link("Roll back to it…", address(PATH, {**query, "do": "rollback"}), class_="button")
            + link("Freeze on it…", address(PATH, {**query, "do": "freeze"}), class_="button")
            + link("Close", address(PATH, {"partition": one["partition"]}), class_="button quiet")
            + f'</div><div class="columns even">{said}<div>'
            + table(["Model", "Ahead", "RMSSE", "Forecasts"], scores, label="Scores",
                    numbers=(1, 2, 3))
            + counts_of(one["counts"]) + "</div></div></section>"
        )  # fmt: skip


def condition(one: dict[str, Any]) -> str:
    """How a partition is served, as markup."""
    if one["standstill"]:
        return '<span class="condition" data-state="stale">Stands still</span>'
    if one["replaying"]:
        return progress(one["replaying"])
    kind, said = (
        ("frozen", "Frozen") if one["frozen"] else ("stale", "Stale") if one["stale"]
        else ("behind", "Catching up") if one["catching_up"] else ("fresh", "Fresh")
    )  # fmt: skip
    by = link("why", address("/audit", {"id": one["frozen_by"]})) if one["frozen_by"] else ""
    return f'<span class="condition" data-state="{kind}">{said}</span> {by}'


def _rmsse(scores: list[dict[str, Any]]) -> float | None:
    """The champion's at the shortest horizon."""
    champion = [one for one in scores if one["role"] == "champion" and one["rmsse"] is not None]
    return min(champion, key=lambda one: one["horizon"])["rmsse"] if champion else None
