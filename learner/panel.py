"""The facts of all series of a shard, as columns.

Rings are time-major: bucket ``b`` is in slot ``b % R``, a row's column is its series. Beside
each bucket's facts they keep running sums, as exact integers, so that the mean of any window
that the ring reaches costs two look-ups. Leaves out: what is learned from the facts
(``features``, ``models``), and time (``window``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from learner import availability, habits
from learner.amending import amend
from learner.availability import Span
from learner.holidays import Holidays, covariates
from learner.names import Names
from learner.plans import Plans
from learner.products import EVERYWHERE, Products
from learner.profiles import Profiles
from learner.returns import Returns
from learner.serving import CENSORED, MISSING, OBSERVED, SHARE, status_of, told
from stream.brought import CELL
from stream.buckets import Calendar
from stream.event import FIRST_US, LAST_US, MICRO, Availability, Product
from stream.settings import LEVELS, Settings, ring_length
from stream.window import Cell, Closed, Key

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

#: Rings: name → dtype. ``units`` tell the status too (``serving.told``). ``sum_*`` hold running
#: sums up to and including the bucket: units in millionths, observed buckets, planned promotion in
#: parts of ``SHARE``, the last two modulo what as many bits hold as the longest window needs.
#: ``usual_units`` has a slot for each phase of the season in the place of one for each bucket.
RINGS: dict[str, type[np.generic]] = {
    "units": np.float32,
    "price": np.float32,
    "sum_units": np.int64,
    "sum_observed": np.uint32,
    "sum_promotion": np.uint32,
    "usual_units": np.float32,
}
#: Columns of one value a series: name → (dtype, value of a new row).
COLUMNS: dict[str, tuple[type[np.generic], float]] = {
    "listed": (np.int32, 0),  # bucket
    "store": (np.int32, 0),
    "product": (np.int32, 0),
    "category": (np.int32, 0),
    "usual_price": (np.float32, np.nan),
    "unit_size": (np.float32, 1.0),
    "from_us": (np.int64, FIRST_US),  # for sale over [from_us, until_us)
    "until_us": (np.int64, LAST_US),
    "replaced": (np.int32, -1),  # row of the series that this one follows on
    "seen": (np.uint16, 0),  # observed buckets, modulo 2**16
    "sold_seen": (np.uint16, 0),  # the same when something was sold last
    "gap": (np.float16, 0.0),  # usual number of observed buckets from sale to sale
    "error_sum": (np.float32, 0.0),
    "error_n": (np.float32, 0.0),
}
#: Weight of the bucket that listed a series, in its level.
FIRST_WEIGHT = 0.25
#: No category known.
NO_CATEGORY = ""


class Panel:
    """Facts of a shard's series. Mutable; all of it is state."""

    def __init__(self, settings: Settings, calendar: Calendar) -> None:
        self.settings = settings
        self.calendar = calendar
        self.ring = ring_length(settings)
        self.short, self.long = LEVELS[settings.bucket]
        self.season = calendar.season
        self.last: int | None = None  # last closed bucket
        self.first: int | None = None  # first bucket that closed with a series
        #: Rows by earlier bucket of which something is known since the last close alone; no state.
        self.told: dict[int, list[int]] = {}
        self.keys: list[Key] = []
        self.rows: dict[Key, int] = {}
        self.stores = Names()
        self.product_codes = Names()
        self.categories = Names()
        self.categories.code(NO_CATEGORY)
        self.products = Products()
        self.stockouts: dict[Key, list[Span]] = {}
        self.plans = Plans(calendar)
        most = {"sum_observed": self.ring, "sum_promotion": SHARE * self.long}
        types = RINGS | {name: np.min_scalar_type(n).type for name, n in most.items()}
        self.rings: dict[str, npt.NDArray[Any]] = {}
        for name, dtype in types.items():
            slots = self.season if name == "usual_units" else self.ring
            self.rings[name] = np.zeros((slots, 0), dtype)
        self.returns = Returns()
        self.columns = {name: np.zeros(0, dtype) for name, (dtype, _) in COLUMNS.items()}
        self.holidays = Holidays(settings.holidays, calendar)
        self.covariates = covariates(settings)
        self.profiles = Profiles(calendar, self.ring, len(self.covariates))

    # -- size ------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of series."""
        return len(self.keys)

    @property
    def capacity(self) -> int:
        """Number of series there is room for."""
        return len(self.columns["listed"])

    def of(self, ring: str, bucket: int | Ints) -> npt.NDArray[Any]:
        """A bucket's row of a ring, shape (S,): a view. Of several, (buckets, S): a copy."""
        return self.rings[ring][bucket % self.ring, : self.size]

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column, shape (S,): a view."""
        return self.columns[name][: self.size]

    def _list(self, keys: list[Key], bucket: int) -> None:
        """Give new series their rows, in key order, so that arrival leaves no trace."""
        needed = self.size + len(keys)
        if needed > self.capacity:
            room = max(needed, self.capacity + self.capacity // 4, 64) - self.capacity
            for name, ring in self.rings.items():
                new = np.nan if name in ("units", "price", "usual_units") else 0
                self.rings[name] = np.pad(ring, ((0, 0), (0, room)), constant_values=new)
            for name, (_, value) in COLUMNS.items():
                self.columns[name] = np.pad(self.columns[name], (0, room), constant_values=value)
        for store, product in keys:
            row = self.rows[store, product] = len(self.keys)
            self.keys.append((store, product))
            self.columns["listed"][row] = bucket
            self.columns["store"][row] = self.stores.code(store)
            self.columns["product"][row] = self.product_codes.code(product)
        self._tell(range(self.size - len(keys), self.size))

    def _tell(self, rows: Iterable[int]) -> None:
        """Write what is known of their products into some rows."""
        for row in rows:
            store, product = self.keys[row]
            about = self.products.about(store, product)
            self.columns["category"][row] = self._category(about.category or NO_CATEGORY)
            self.columns["unit_size"][row] = about.unit_size
            self.columns["from_us"][row] = about.from_us
            self.columns["until_us"][row] = about.until_us
            before = None if about.replaces is None else self.rows.get((store, about.replaces))
            self.columns["replaced"][row] = -1 if before is None else before

    def _category(self, category: str) -> int:
        new = category not in self.categories.codes
        code = self.categories.code(category)
        if new:
            self.profiles.make_room(code)
        return code

    # -- facts that are no sales -----------------------------------------------------------

    def know(self, event: Product | Availability) -> None:
        """Take in what is known of a product, or a stock-out or its end."""
        if isinstance(event, Product):
            if self.products.add(event):
                product = self.product_codes.codes.get(event.product, -1)
                rows = np.flatnonzero(self.column("product") == product)
                self._tell(rows.tolist())
                self.plans.repaint()
            return
        availability.learn(self.stockouts, event)

    # -- closing ---------------------------------------------------------------------------

    def close(self, closed: Closed) -> list[Key]:
        """Turn a bucket's sums into facts.

        Returns
        -------
        Series that found no room under ``max_series``, in key order.
        """
        bucket = closed.bucket
        sold = {
            key for cells in closed.revisions.values() for key, cell in cells.items() if cell[4] > 0
        }
        new = sorted(key for key in sold.union(closed.cells) if key not in self.rows)
        room = max(self.settings.max_series - self.size, 0)
        new, refused = new[:room], new[room:]
        if self.first is None and not new:
            return refused  # nothing is known yet, so nothing has closed
        self._list(new, bucket)
        self._list(self._launched(bucket)[: max(room - len(new), 0)], bucket)
        habits.learn(self, bucket)
        self._pass_silence(bucket)
        self.last = bucket
        if self.first is None:
            self.first = bucket
        self.told = amend(self, closed)
        self._fill(closed)
        self.plans.forget(bucket - self.ring)
        listed = self.rows if self.size >= self.settings.max_series else None
        oldest = self.calendar.dawn(bucket + 1 - self.settings.revise_buckets)
        availability.forget(self.stockouts, self.calendar.span(oldest)[0], listed)
        return refused

    def _launched(self, bucket: int) -> list[Key]:
        """Series that a product's listing makes known by the next bucket, before any sale.

        Told of all stores, a product is expected in those that sell of its category.
        """
        oldest = self.calendar.span(max(bucket - self.short, 0))[0]
        found: set[Key] = set()
        for (store, product), at in self.products.due(self.calendar.span(bucket + 1)[1]):
            if at < oldest:
                continue  # history: its sales tell where it is sold
            if store != EVERYWHERE:
                if store in self.stores.codes:
                    found.add((store, product))
                continue
            category = self.products.about(store, product).category
            code = self.categories.codes.get(category or NO_CATEGORY, -1)
            if category is not None:
                rows = self.column("category") == code
                stores = np.unique(np.asarray(self.column("store"))[rows]).tolist()
                found.update((self.stores.texts[one], product) for one in stores)
        return sorted(key for key in found if key not in self.rows)

    def _pass_silence(self, bucket: int) -> None:
        """Mark what lies between the last close and this one as missing."""
        if self.last is None:
            return
        before = self.last
        for gap in range(max(self.last + 1, bucket - self.ring), bucket):
            self._blank(gap, before)
            self.profiles.pass_by(gap)
            before = gap

    def _blank(self, bucket: int, before: int) -> None:
        """Make a bucket one of which nothing is known; ``before`` is the last that was closed."""
        for name in ("units", "price"):
            self.of(name, bucket)[:] = np.nan
        for name in ("sum_units", "sum_observed", "sum_promotion"):
            self.of(name, bucket)[:] = self.of(name, before)

    def _fill(self, closed: Closed) -> None:
        bucket = closed.bucket
        self._blank(bucket, bucket - 1)
        alive = np.array([text in closed.alive for text in self.stores.texts], dtype=bool)
        gross, returns, price = self._sums(closed.cells)
        gaps = [key for key in closed.gaps.get(bucket, ()) if key in self.rows]
        away = self.not_for_sale(bucket)
        away[[self.rows[key] for key in gaps if key not in closed.cells]] = True
        observed = alive[self.column("store")] & (~away | (gross > 0))
        status = np.where(observed, OBSERVED, MISSING).astype(np.int8)
        for key in [*self.stocked_out(bucket), *gaps]:
            if observed[self.rows[key]]:
                status[self.rows[key]] = CENSORED
        demand = gross if self.settings.target == "gross" else np.maximum(gross - returns, 0)
        self.of("units", bucket)[:] = told(demand / MICRO, status)
        self.returns.forget(bucket - self.ring + 1)
        self.returns.put(bucket, returns)
        self.of("price", bucket)[:] = price
        counts = status == OBSERVED
        # A censored bucket may raise a level, never lower it.
        if CENSORED in status:
            level, seen = self.window(bucket - 1, self.short)
            counts |= (status == CENSORED) & (demand / MICRO > level) & (seen > 0)
        self.of("sum_units", bucket)[counts] += demand[counts]
        self.of("sum_observed", bucket)[:] += counts
        self.column("seen")[:] += counts
        promotion = self.plans.promotion(self, bucket, bucket)
        sums = self.of("sum_promotion", bucket)
        sums += np.rint(promotion * SHARE).astype(sums.dtype)

    def _sums(self, cells: dict[Key, Cell]) -> tuple[Ints, Ints, Floats]:
        """Gross and returns in millionths and mean price paid, shape (S,) each."""
        gross, returns = np.zeros((2, self.size), np.int64)
        price = np.full(self.size, np.nan)
        at, sums = self.table(cells)
        gross[at], returns[at] = sums[:, 0], sums[:, 1]
        priced = sums[:, 3] > 0
        price[at[priced]] = sums[priced, 2] / sums[priced, 3]
        return gross, returns, price

    def table(self, cells: Mapping[Key, Cell]) -> tuple[Rows, Ints]:
        """A bucket's cells as one table, (n, CELL), and their rows, (n,); of listed series only."""
        at = np.array([self.rows.get(key, -1) for key in cells], np.intp)
        sums = np.array(list(cells.values()), np.int64).reshape(-1, CELL)
        known = at >= 0
        return (at, sums) if known.all() else (at[known], sums[known])

    def for_sale(self, bucket: int) -> npt.NDArray[np.bool_]:
        """Whether a series' product is listed, and not delisted, in a bucket, shape (S,)."""
        start, end = self.calendar.span(bucket)
        there: npt.NDArray[np.bool_] = self.column("from_us") < end
        return there & (self.column("until_us") > start)

    def not_for_sale(self, bucket: int) -> npt.NDArray[np.bool_]:
        """Where silence means nothing: a planned closure, or a product not listed, shape (S,)."""
        return self.plans.closed(self, bucket, bucket) | ~self.for_sale(bucket)

    def stocked_out(self, bucket: int) -> list[Key]:
        """Series that were told to be out of stock in a bucket."""
        start, end = self.calendar.span(bucket)
        found = []
        for key, spans in self.stockouts.items():
            state = True
            for from_us, to_us, available, *_ in spans:
                if from_us < end and to_us > start:
                    state = available
            if not state and key in self.rows:
                found.append(key)
        return found

    def part(self, rows: Rows) -> Panel:
        """Some of the series as a panel of their own, to be read only; returns are left out."""
        out = Panel(self.settings, self.calendar)
        out.last, out.first, out.profiles = self.last, self.first, self.profiles
        out.keys = [self.keys[row] for row in rows.tolist()]
        out.rows = {key: row for row, key in enumerate(out.keys)}
        out.stores, out.product_codes = self.stores, self.product_codes
        out.categories, out.products = self.categories, self.products
        out.plans = self.plans.apart()
        out.rings = {name: ring[:, rows] for name, ring in self.rings.items()}
        out.columns = {name: column[rows] for name, column in self.columns.items()}
        place = {row: at for at, row in enumerate(rows.tolist())}
        before = [place.get(row, -1) for row in out.columns["replaced"].tolist()]
        out.columns["replaced"] = np.array(before, np.int32)
        return out

    # -- reading ---------------------------------------------------------------------------

    def window(self, origin: int, length: int) -> tuple[Floats, Floats]:
        """Mean units over the ``length`` buckets up to ``origin``, and how many were observed.

        Shapes (S,), (S,); the mean is 0 where none was.
        """
        length = min(length, self.ring - 1)
        start = max(origin - length, self.oldest - 1)
        if origin <= start:
            return np.zeros(self.size), np.zeros(self.size)
        units = np.asarray(self.of("sum_units", origin) - self.of("sum_units", start), np.float64)
        seen = np.asarray(
            self.of("sum_observed", origin) - self.of("sum_observed", start), np.float64
        )
        return units / MICRO / np.maximum(seen, 1.0), seen

    def level(self, origin: int, length: int) -> tuple[Floats, Floats]:
        """As ``window``, but the bucket that listed a series counts for a quarter.

        A series is listed by its first sale, so that bucket is chosen for not being empty.
        """
        mean, seen = self.window(origin, length)
        listed = np.asarray(self.column("listed"))
        young = np.flatnonzero((listed > origin - length) & (listed <= origin) & (seen > 0))
        slot = listed[young] % self.ring
        counts = self.rings["sum_observed"]
        # One that was censored or missing is in no sum, and has no weight to take away.
        young = young[counts[slot, young] != counts[slot - 1, young]]
        first = np.nan_to_num(np.abs(self.rings["units"][listed[young] % self.ring, young]))
        rest = seen[young] - (1.0 - FIRST_WEIGHT)
        mean[young] = (mean[young] * seen[young] - (1.0 - FIRST_WEIGHT) * first) / rest
        mean[young] = np.maximum(mean[young], 0.0)
        seen[young] = rest
        return mean, seen

    @property
    def oldest(self) -> int:
        """The oldest bucket whose sums the ring still holds the predecessor of."""
        assert self.last is not None
        return self.last - self.ring + 2

    def kept(self, bucket: int) -> bool:
        """Whether the ring still holds a bucket."""
        return self.last is not None and self.last - self.ring < bucket <= self.last

    def promotion(self, bucket: int | Ints) -> Floats:
        """Planned promotion of closed buckets, in [0, 1], shaped as ``of``; from ``oldest`` on."""
        sums = self.of("sum_promotion", bucket) - self.of("sum_promotion", bucket - 1)
        return np.asarray(sums, np.float64) / SHARE

    def units(self, bucket: int) -> Floats:
        """Demand of a bucket, shape (S,); ``nan`` where missing or no longer kept."""
        if not self.kept(bucket):
            return np.full(self.size, np.nan)
        units: Floats = np.abs(self.of("units", bucket), dtype=np.float64)
        return units

    def status(self, bucket: int) -> npt.NDArray[np.int8]:
        """Status of a bucket that is kept, shape (S,)."""
        return status_of(self.of("units", bucket))
