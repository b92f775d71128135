"""The click log: shoppers simulated over the old keyword ranking, written as User Behavior Insights records.

Some rows of the page come into view; attention fades downwards (position bias). A shopper clicks by
how well a product fits, now and then what does not fit (noise), stops once content, and, disappointed,
walks through the menu to the category instead. Exploration puts other products of the department into
a few slots. Train queries only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gram_exporter.shop.dice import Dice
from gram_exporter.shop.lexical import KeywordIndex
from gram_exporter.shop.shop import LABEL, Shop
from gram_exporter.shop.shopper import Query
from gram_exporter.shop.vocabulary import ProductType

SEARCHES_PER_QUERY = 4.5
PAGE_SIZE = 12
SCROLL_DEPTH = ((4, 3), (8, 4), (12, 3))
"""How many products come into view, with relative weights: each is an impression, looked at or not."""
ATTENTION = (1.0, 0.85, 0.72, 0.62, 0.54, 0.47, 0.41, 0.36, 0.31, 0.27, 0.24, 0.21)
CLICK_BY_GRADE = (0.03, 0.1, 0.3, 0.6)
CART_BY_GRADE = (0.02, 0.08, 0.2, 0.3)
PURCHASE_AFTER_CART = 0.4
EXPLORED_SLOT = 0.12
MENU_AFTER_NO_CLICK = 0.55
SATISFIED_BY_CLICK = 0.35
_START = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Search:
    """One search of the log: its `ubi_queries` record and its `ubi_events` records in order."""

    query: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Glance:
    """A product that came into a shopper's view: where it stood, and what he did there."""

    document: int
    ordinal: int
    trail: str
    actions: tuple[str, ...]


def simulate_log(shop: Shop) -> Iterator[Search]:
    """Searches in the order of time; popular queries come often, most come once or twice."""
    floor = _Floor(shop)
    for number, query in enumerate(_asked(shop)):
        yield floor.search(number, query)


def _asked(shop: Shop) -> list[Query]:
    dice = Dice(shop.seed, "popularity")
    ranked = dice.shuffled(shop.queries["train"])
    total = SEARCHES_PER_QUERY * len(ranked)
    weights = [1 / (rank + 8) ** 0.8 for rank in range(len(ranked))]
    repeated = [
        query
        for query, weight in zip(ranked, weights, strict=True)
        for _ in range(max(1, round(total * weight / sum(weights))))
    ]
    return dice.shuffled(repeated)


class _Floor:
    """The shop floor during the log: the ranking, the menu, and who stands where."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._ids = [str(document["id"]) for document in shop.documents]
        self._types = {offer.product.id: offer.product.type for offer in shop.offers}
        self._index = KeywordIndex(shop.documents)
        self._pages: dict[str, list[int]] = {}
        self._menu: dict[str, list[int]] = defaultdict(list)
        self._departments: dict[str, list[int]] = defaultdict(list)
        for number, offer in enumerate(shop.offers):
            self._departments[offer.product.type.department].append(number)
            if "product_type" in offer.document:
                self._menu[offer.product.type.key].append(number)

    def search(self, number: int, query: Query) -> Search:
        """One shopper asks one query, looks, clicks, and perhaps walks through the menu."""
        dice = Dice(self._shop.seed, "session", number)
        grades = self._shop.grades[query.family]
        page = self._explored(self._page(query.text), query, dice)
        glances = list(self._look(page, "search", grades, dice))
        if not any(glance.actions for glance in glances) and dice.chance(MENU_AFTER_NO_CLICK):
            glances += self._look(self._shelf(query, dice), "menu", grades, dice, first=len(page))
        return self._record(number, query, page, glances, dice)

    def _page(self, text: str) -> list[int]:
        if text not in self._pages:
            self._pages[text] = self._index.ranking(text, PAGE_SIZE)
        return self._pages[text]

    def _explored(self, page: Sequence[int], query: Query, dice: Dice) -> list[int]:
        others = self._departments[self._wanted(query, dice).department] if page else []
        explored = [dice.pick(others) if dice.chance(EXPLORED_SLOT) else document for document in page]
        return list(dict.fromkeys(explored))

    def _shelf(self, query: Query, dice: Dice) -> list[int]:
        return dice.sample(self._menu[self._wanted(query, dice).key], PAGE_SIZE)

    def _wanted(self, query: Query, dice: Dice) -> ProductType:
        """The category that the shopper has in mind: that of something that fits."""
        fitting = tuple(self._shop.grades[query.family])
        return self._types[dice.pick(fitting)]

    def _look(
        self, page: Sequence[int], trail: str, grades: Mapping[str, int], dice: Dice, *, first: int = 0
    ) -> Iterator[Glance]:
        """Ordinals count from 0; those of the menu go on after the page, it was looked at later."""
        in_view = dice.weighted(*zip(*SCROLL_DEPTH, strict=True))
        for place, document in enumerate(page[:in_view]):
            grade = grades.get(self._ids[document], 0)
            actions = _acts(grade, dice) if dice.chance(ATTENTION[place]) else ()
            yield Glance(document, first + place, trail, actions)
            if actions and grade > 1 and dice.chance(SATISFIED_BY_CLICK):
                return

    def _record(self, number: int, query: Query, page: Sequence[int], glances: Sequence[Glance], dice: Dice) -> Search:
        moment = _START + timedelta(seconds=97 * number + dice.index(60))
        head = {
            "application": LABEL,
            "query_id": f"q{number:07d}",
            "client_id": f"c{dice.index(100_000):05d}",
            "user_query": query.text,
        }
        asked = head | {
            "query_response_id": f"r{number:07d}",
            "query_response_hit_ids": [self._ids[document] for document in page],
            "query_attributes": {"object_id_field": "id"},
            "timestamp": _stamp(moment),
        }
        return Search(asked, list(self._events(head, moment, glances)))

    def _events(self, head: Mapping[str, Any], moment: datetime, glances: Sequence[Glance]) -> Iterator[dict[str, Any]]:
        for glance in glances:
            for action in ("impression", *glance.actions):
                moment += timedelta(milliseconds=700 if action == "impression" else 4300)
                place = {"ordinal": glance.ordinal, "trail": glance.trail}
                what = {"object_id": self._ids[glance.document], "object_id_field": "id"}
                yield {
                    "action_name": action,
                    **head,
                    "timestamp": _stamp(moment),
                    "event_attributes": {"object": what, "position": place},
                }


def _acts(grade: int, dice: Dice) -> tuple[str, ...]:
    if not dice.chance(CLICK_BY_GRADE[grade]):
        return ()
    if not dice.chance(CART_BY_GRADE[grade]):
        return ("click",)
    return ("click", "add_to_cart", "purchase") if dice.chance(PURCHASE_AFTER_CART) else ("click", "add_to_cart")


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
