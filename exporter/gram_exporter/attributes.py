"""Learning the lexicons of attributes from a catalogue: which phrases stand for which typed value.

What finds the attributes of a product with them is `gram_plugin.contract.tagging`, which serving shares.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from gram_plugin.contract.codes import Attribute, readable_value
from gram_plugin.contract.tagging import MAX_PHRASE_WORDS, Lexicon, Phrase, ProductText, attribute_or_none, words

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
        if support >= min_products and 0 < len(phrase) <= MAX_PHRASE_WORDS and not _is_bare_number(phrase):
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
    the pair said at least half as often as its rarer word, or it is no name.
    """
    counts = Counter(phrase for title in titles for phrase in set(_title_phrases(words(title))))
    ceiling = max(min_products, int(max_share * len(titles)))
    kept = {phrase: count for phrase, count in counts.items() if _telling(phrase, counts, min_products, ceiling)}
    telling = sorted(kept, key=lambda phrase: (-kept[phrase] * math.log(len(titles) / kept[phrase]), phrase))
    found = ((phrase, attribute_or_none(_TERM_TYPE, " ".join(phrase))) for phrase in telling[:max_terms])
    return Lexicon({phrase: (attribute,) for phrase, attribute in found if attribute})


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
    yield from ((token,) for token in tokens if not _is_bare_number((token,)))
    yield from pairwise(tokens)


def _is_bare_number(phrase: Phrase) -> bool:
    return all(token.replace(".", "").isdecimal() for token in phrase)
