"""Learning the lexicons of attributes from a catalogue: which phrases stand for which typed value.

What finds the attributes of a product with them is `gram_plugin.contract.tagging`, which serving shares.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from gram_plugin.contract.codes import Attribute, readable_value
from gram_plugin.contract.tagging import Lexicon, Phrase, ProductText, attribute_or_none
from gram_plugin.contract.words import is_part, joined, places, words

MAX_PHRASE_WORDS = 5
MAX_PHRASE_PARTS = 24
"""The same for scripts without spaces, whose words are two to six characters long."""
MAX_TERM_PARTS = 8
AS_OFTEN = 0.8
"""A run of characters that a longer one repeats this often is no term of its own: it is a piece of that one."""
_TERM_TYPE = "other"


def learn_lexicon(products: Iterable[ProductText], *, min_products: int, min_precision: float = 0.5) -> Lexicon:
    """Learns which phrases of the text stand for which attribute.

    A phrase is the readable form of a field value. It is kept when at least `min_products` products
    say it, and when, among the products that say it and have a value of that type, at least
    `min_precision` have this one: 'orange' may name a colour or a brand, the catalogue decides.
    """
    products = list(products)
    values = Counter(attribute for product in products for attribute in product.fields)
    candidates: dict[Phrase, list[Attribute]] = defaultdict(list)
    for attribute, support in values.items():
        phrase = tuple(words(readable_value(attribute.value)))
        if support >= min_products and _is_name(phrase):
            candidates[phrase].append(attribute)
    draft = Lexicon({phrase: tuple(attributes) for phrase, attributes in candidates.items()})
    said, right = _phrase_counts(products, draft)
    keep = {a for a, count in said.items() if count >= min_products and right[a] >= min_precision * count}
    kept = {phrase: tuple(a for a in attributes if a in keep) for phrase, attributes in candidates.items()}
    return Lexicon({phrase: attributes for phrase, attributes in kept.items() if attributes})


def learn_terms(titles: Sequence[str], *, min_products: int, max_terms: int, max_share: float = 0.2) -> Lexicon:
    """Learns the telling words and word pairs of titles as `other=` attributes.

    Kept are those that at least `min_products` and at most `max_share` of the titles contain,
    the `max_terms` with the largest df x idf; both words of a pair must be telling by themselves, and
    the pair said at least half as often as its rarer word, or it is no name. Where a script puts no spaces
    between words, runs of two characters and more stand for them, a piece of a term being none.
    """
    counts = Counter(phrase for title in titles for phrase in set(_title_phrases(words(title))))
    ceiling = max(min_products, int(max_share * len(titles)))
    kept = {phrase: count for phrase, count in counts.items() if _telling(phrase, counts, min_products, ceiling)}
    kept |= {run: count for run, count in _whole_runs(titles, min_products).items() if count <= ceiling}
    telling = sorted(kept, key=lambda phrase: (-kept[phrase] * math.log(len(titles) / kept[phrase]), phrase))
    found = ((phrase, attribute_or_none(_TERM_TYPE, joined(phrase))) for phrase in telling[:max_terms])
    return Lexicon({phrase: (attribute,) for phrase, attribute in found if attribute})


def _whole_runs(titles: Sequence[str], fewest: int) -> dict[Phrase, int]:
    """Runs of two and more characters that `fewest` titles say, with how many do; no mere pieces of others."""
    runs = [found for title in titles if (found := _runs(title))]
    kept: dict[Phrase, int] = {}
    for size in range(1, MAX_TERM_PARTS + 1):
        counts = Counter(piece for found in runs for piece in set(_pieces(found, size)) if _ends_kept(piece, kept))
        kept |= {piece: count for piece, count in counts.items() if count >= fewest}
    longer = ((run, end) for run in kept if len(run) > 1 for end in (run[1:], run[:-1]))
    pieces = {end for run, end in longer if kept[run] >= AS_OFTEN * kept[end]}
    return {run: count for run, count in kept.items() if len(run) > 1 and run not in pieces}


def _runs(title: str) -> list[list[str]]:
    """Characters that follow each other in scripts without spaces, run by run."""
    runs, end = list[list[str]](), -1
    for place in places(title):
        word = title[place.start : place.end]
        if is_part(word):
            if place.start != end:
                runs.append([])
            runs[-1].append(word)
        end = place.end if is_part(word) else -1
    return runs


def _pieces(runs: Sequence[Sequence[str]], size: int) -> Iterator[Phrase]:
    return (tuple(run[at : at + size]) for run in runs for at in range(len(run) - size + 1))


def _ends_kept(piece: Phrase, kept: Mapping[Phrase, int]) -> bool:
    return len(piece) == 1 or (piece[1:] in kept and piece[:-1] in kept)


def _phrase_counts(products: Iterable[ProductText], draft: Lexicon) -> tuple[Counter[Attribute], Counter[Attribute]]:
    said, right = Counter[Attribute](), Counter[Attribute]()
    for product in products:
        types, own = {attribute.type for attribute in product.fields}, set(product.fields)
        matched = [attribute for attribute in draft.match(product.text) if attribute.type in types]
        said.update(matched)
        right.update(attribute for attribute in matched if attribute in own)
    return said, right


def _telling(phrase: Phrase, counts: Counter[Phrase], fewest: int, ceiling: int) -> bool:
    parts = [counts[(word,)] for word in phrase]
    return fewest <= counts[phrase] and max(parts) <= ceiling and (len(phrase) == 1 or 2 * counts[phrase] >= min(parts))


def _title_phrases(tokens: Sequence[str]) -> Iterator[Phrase]:
    yield from ((token,) for token in tokens if not (is_part(token) or _is_bare_number((token,))))
    yield from (pair for pair in pairwise(tokens) if not any(map(is_part, pair)))


def _is_name(phrase: Phrase) -> bool:
    length = sum(1 / MAX_PHRASE_PARTS if is_part(word) else 1 / MAX_PHRASE_WORDS for word in phrase)
    return 0 < length < 1 + 1e-9 and not _is_bare_number(phrase)


def _is_bare_number(phrase: Phrase) -> bool:
    return all(token.replace(".", "").isdecimal() for token in phrase)
