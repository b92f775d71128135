"""Click logs in UBI format: which products were wanted for a query, corrected for the position they were shown at.

The correction is COEC, clicks over expected clicks: a product that was shown first has to be clicked
more often than one that was shown last, to count as much (Zhang and Jones, 2007).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gram_plugin.contract.records import Record, RecordReader
from gram_plugin.errors import JudgmentsError

GAINS: Mapping[str, float] = {
    "impression": 0.0,
    "click": 1.0,
    "item_click": 1.0,
    "product_click": 1.0,
    "add_to_cart": 3.0,
    "purchase": 6.0,
}
"""What an action says of a product: shown, or wanted and how much."""

PRIOR_CLICKS = 1.0
"""Clicks, and expected clicks, that every product begins with: one lucky click far down proves little."""
PRIOR_IMPRESSIONS = 10.0
"""Impressions at the log's mean click rate that every position begins with."""

_HIT_IDS = ("query_response_hit_ids", "query_response_object_ids", "query_response_objects_ids")
_BULK_ACTIONS = frozenset({"index", "create", "update", "delete"})


@dataclass(frozen=True, slots=True)
class ClickedProduct:
    """What a log says about one product for one query.

    Attributes:
        query: text as the shopper wrote it, white space collapsed.
        product_id: id of the product.
        impressions: searches that showed it.
        clicks: searches after which it was clicked, put into the cart or bought.
        weight: clicks, cart and purchases over expected clicks; 0 if it was never clicked.
        passed_over: searches that showed it above a clicked product and left it unclicked.
    """

    query: str
    product_id: str
    impressions: int
    clicks: int
    weight: float
    passed_over: int


@dataclass(frozen=True)
class ClickLog:
    """The products of a click log, by query in the log's order, and what could not be used, by reason."""

    products: tuple[ClickedProduct, ...]
    ignored: Mapping[str, int]


@dataclass
class _Shown:
    """One product on one result page."""

    ordinal: int | None = None
    gain: float = 0.0


@dataclass
class _Search:
    """One search: its text and the products on its result page."""

    text: str | None
    hit_ids: tuple[str, ...] = ()
    page: dict[str, _Shown] = field(default_factory=dict)


@dataclass
class _Tally:
    """Sums over all searches for one query text and product."""

    impressions: int = 0
    clicks: int = 0
    passed_over: int = 0
    gain: float = 0.0
    expected: float = 0.0


def read_clicks(queries_path: Path, events_path: Path) -> ClickLog:
    """Joins UBI queries and events and weighs each product that was shown for a query.

    Lines may be bare documents, search hits with `_source`, or a bulk body; both kinds may also stand
    in one file. Products count as shown by `impression` events, by the query's response ids if these
    are product ids, and by being clicked.

    Raises:
        JudgmentsError: a file cannot be read, or no click of it joins a query.
    """
    ignored = Counter[str]()
    searches = _read_searches(queries_path)
    for document in _documents(events_path):
        if "action_name" in document:
            _note_event(document, searches, ignored)
    _add_response_ids(searches.values(), ignored)
    pages = [search for search in searches.values() if search.text and search.page]
    ignored["searches without text"] += sum(1 for search in searches.values() if search.page and not search.text)
    products = tuple(_weighed(pages))
    if not any(product.clicks for product in products):
        raise JudgmentsError(
            f"no click of {events_path} joins a query of {queries_path}; left out: {dict(+ignored)}",
            next_step="check that both files are of one log, and that events carry query_id and object.object_id",
        )
    return ClickLog(products, dict(+ignored))


def _read_searches(path: Path) -> dict[str, _Search]:
    searches = {}
    for document in _documents(path):
        if "action_name" not in document and document.get("query_id"):
            hit_ids: list[Any] = next((document[name] for name in _HIT_IDS if isinstance(document.get(name), list)), [])
            searches[str(document["query_id"])] = _Search(_text_of(document), tuple(map(str, hit_ids)))
    return searches


def _note_event(event: Mapping[str, Any], searches: dict[str, _Search], ignored: Counter[str]) -> None:
    action = str(event["action_name"]).strip().lower().replace("-", "_").replace(" ", "_")
    attributes = _mapping(event, "event_attributes")
    product_id = _id_of(_mapping(attributes, "object").get("object_id"))
    search = _search_of(event, searches)
    if action not in GAINS:
        ignored[f"action {action}"] += 1
    elif product_id is None:
        ignored["events without object_id"] += 1
    elif search is None:
        ignored["events of an unknown query_id"] += 1
    else:
        shown = search.page.setdefault(product_id, _Shown())
        shown.gain = max(shown.gain, GAINS[action])
        shown.ordinal = _ordinal(attributes) if shown.ordinal is None else shown.ordinal


def _search_of(event: Mapping[str, Any], searches: dict[str, _Search]) -> _Search | None:
    """The search of an event; one that only the events know is made from the event's own text."""
    query_id = event.get("query_id")
    if query_id and str(query_id) not in searches and _text_of(event):
        searches[str(query_id)] = _Search(_text_of(event))
    return searches.get(str(query_id))


def _add_response_ids(searches: Iterable[_Search], ignored: Counter[str]) -> None:
    """Counts response ids as shown, unless they are engine-internal numbers and no product ids."""
    listed = [search for search in searches if search.hit_ids and any(shown.gain for shown in search.page.values())]
    clicked = [(search, product_id) for search in listed for product_id, shown in search.page.items() if shown.gain]
    known = sum(product_id in search.hit_ids for search, product_id in clicked)
    if 2 * known <= len(clicked):
        ignored["response ids that are no product ids"] += sum(len(search.hit_ids) for search in listed)
        return
    first = min((s.ordinal for search in listed for s in search.page.values() if s.ordinal is not None), default=0)
    for search in listed:
        for ordinal, product_id in enumerate(search.hit_ids, start=min(first, 1)):
            shown = search.page.setdefault(product_id, _Shown())
            shown.ordinal = ordinal if shown.ordinal is None else shown.ordinal


def _weighed(searches: list[_Search]) -> Iterator[ClickedProduct]:
    rates = _click_rates(searches)
    tallies: dict[str, dict[str, _Tally]] = defaultdict(lambda: defaultdict(_Tally))
    for search in searches:
        lowest = max((s.ordinal for s in search.page.values() if s.gain and s.ordinal is not None), default=-1)
        for product_id, shown in search.page.items():
            tally = tallies[search.text or ""][product_id]
            tally.impressions += 1
            tally.clicks += shown.gain > 0
            tally.gain += shown.gain
            tally.expected += rates[shown.ordinal]
            tally.passed_over += shown.gain == 0 and shown.ordinal is not None and shown.ordinal < lowest
    for query, products in tallies.items():
        for product_id, t in products.items():
            weight = (t.gain + PRIOR_CLICKS) / (t.expected + PRIOR_CLICKS) if t.clicks else 0.0
            yield ClickedProduct(query, product_id, t.impressions, t.clicks, weight, t.passed_over)


def _click_rates(searches: list[_Search]) -> dict[int | None, float]:
    """P(click) at each ordinal, and under None where the log does not say, shrunk to the log's mean."""
    shown, clicked = Counter[int | None](), Counter[int | None]()
    for search in searches:
        for product in search.page.values():
            shown[product.ordinal] += 1
            clicked[product.ordinal] += product.gain > 0
    mean = clicked.total() / max(1, shown.total())
    return {at: (clicked[at] + PRIOR_IMPRESSIONS * mean) / (n + PRIOR_IMPRESSIONS) for at, n in shown.items()}


def _documents(path: Path) -> Iterator[dict[str, Any]]:
    for record in RecordReader(path, error=JudgmentsError):
        document = _unwrapped(record)
        if document is not None:
            yield document


def _unwrapped(record: Record) -> dict[str, Any] | None:
    source = record.source
    if isinstance(source.get("_source"), dict):
        return dict(source["_source"])
    is_bulk_action = len(source) == 1 and next(iter(source)) in _BULK_ACTIONS
    return None if is_bulk_action else source


def _text_of(document: Mapping[str, Any]) -> str | None:
    text = document.get("user_query")
    return " ".join(text.split()) or None if isinstance(text, str) else None


def _id_of(found: Any) -> str | None:
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    return (found.strip() or None) if isinstance(found, str) else None


def _ordinal(attributes: Mapping[str, Any]) -> int | None:
    found = _mapping(attributes, "position").get("ordinal")
    return int(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    return found if isinstance(found, Mapping) else {}
