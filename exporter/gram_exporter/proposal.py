"""Which fields of a catalogue are its id, its texts and its attributes, proposed from names and statistics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gram_exporter import field_names
from gram_exporter.survey import FieldProfile
from gram_plugin.contract.codes import ATTRIBUTE_TYPES
from gram_plugin.errors import CatalogueError

MAX_TEXT_FIELDS = 6
MAX_ATTRIBUTE_FIELDS = 24
MAX_SEARCH_FIELDS = 16
BOOSTS: Mapping[str, int] = {"type": 2, "brand": 2}
TITLE_BOOST = 3
NUMERIC_TYPES = frozenset({"time", "sales_spec"})
"""Types whose values may be bare numbers that shoppers type: a year, a shoe size."""


@dataclass(frozen=True)
class Choice:
    """What one field is used for, and why; `use` is id, text or the attribute type."""

    field: str
    use: str
    reason: str
    is_number: bool = False


@dataclass(frozen=True)
class Proposal:
    """The fields to use; `left_out` counts the others by reason."""

    id: Choice
    texts: tuple[Choice, ...]
    attributes: tuple[Choice, ...]
    left_out: Mapping[str, int]

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All choices, in the order in which they are read."""
        return (self.id, *self.texts, *self.attributes)


def propose(profiles: Sequence[FieldProfile], *, id_field: str | None = None) -> Proposal:
    """Chooses among the fields of a sample.

    Args:
        profiles: the fields, as `survey` gives them.
        id_field: the id where it is known, such as `_id` of an index.

    Raises:
        CatalogueError: no field can be the id, or none holds words.
    """
    identity = Choice(id_field, "id", "the id of each document") if id_field else _choose_id(profiles)
    open_fields = [profile for profile in profiles if profile.name != identity.field]
    named_texts = _named_texts(open_fields)
    rest = [profile for profile in open_fields if profile.name not in {text.field for text in named_texts}]
    refused = {profile.name: refusal for profile in rest if (refusal := _refusal(profile))}
    attributes = _choose_attributes([profile for profile in rest if profile.name not in refused])
    taken = {choice.field for choice in attributes}
    texts = _with_other_texts(named_texts, [profile for profile in rest if profile.name not in taken])
    used = taken | {choice.field for choice in texts}
    left_out = Counter(refused.get(p.name, "of little use beside the others") for p in rest if p.name not in used)
    return Proposal(identity, texts, attributes, dict(left_out.most_common()))


def search_fields(proposal: Proposal, searchable: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Fields of a cross_fields query with their boosts: title, category and brand count more.

    Numbers are left out: a text query fails on a numeric field.

    Args:
        proposal: the chosen fields.
        searchable: field to mapping type of an existing index; fields that hold no text there are left out.
    """
    boosts = {proposal.texts[0].field: TITLE_BOOST}
    for choice in (*proposal.texts, *(choice for choice in proposal.attributes if not choice.is_number)):
        boosts.setdefault(choice.field, BOOSTS.get(choice.use, 1))
    usable = [name for name in boosts if searchable is None or searchable.get(name) in {"text", "keyword"}]
    return tuple(f"{name}^{boosts[name]}" if boosts[name] > 1 else name for name in usable[:MAX_SEARCH_FIELDS])


def _choose_id(profiles: Sequence[FieldProfile]) -> Choice:
    fitting = [profile for profile in profiles if _may_be_id(profile)]
    named = [(rank, p) for p in fitting if (rank := field_names.name_rank(p.name, field_names.ID_NAMES)) is not None]
    if named:
        best = min(named, key=lambda pair: pair[0])[1]
        doubles = best.products - best.distinct
        return Choice(
            best.name, "id", "its name" + (f"; {doubles} repeated ids in the sample" if doubles else ", unique")
        )
    unique = [profile for profile in fitting if profile.distinct == profile.products and profile.words < 3]
    if unique:
        return Choice(unique[0].name, "id", "the first field that is different for each product")
    raise CatalogueError(
        f"no field has another short value for each product, among {', '.join(p.name for p in profiles[:12])}",
        next_step="add an id to each product, for example its number in the file",
    )


def _may_be_id(profile: FieldProfile) -> bool:
    is_short = profile.longest_share == 0 and profile.urls < 0.5 and profile.dates < 0.5
    is_single = profile.coverage == 1.0 and profile.per_product == 1.0
    return is_short and is_single and profile.distinct >= 0.9 * profile.products


def _named_texts(profiles: Sequence[FieldProfile]) -> tuple[Choice, ...]:
    """Title, other titles, summary and description by their names; the title by statistics if none has a name."""
    wordy = [profile for profile in profiles if profile.is_wordy and profile.distinct > 1]
    titles = _by_name([p for p in wordy if p.coverage >= 0.5], field_names.TITLE_NAMES, "its name is one of a title")
    if not titles:
        titles = (_title_by_statistics(profiles, wordy),)
    summaries = _by_name(wordy, field_names.SUMMARY_NAMES, "its name is one of a short description")
    descriptions = _by_name(wordy, field_names.DESCRIPTION_NAMES, "its name is one of a description")
    return tuple({choice.field: choice for choice in (*titles, *summaries, *descriptions)}.values())[:MAX_TEXT_FIELDS]


def _by_name(profiles: Sequence[FieldProfile], names: tuple[str, ...], reason: str) -> tuple[Choice, ...]:
    found = [(rank, p.name) for p in profiles if (rank := field_names.name_rank(p.name, names)) is not None]
    return tuple(Choice(name, "text", reason) for _, name in sorted(found))


def _title_by_statistics(profiles: Sequence[FieldProfile], wordy: Sequence[FieldProfile]) -> Choice:
    if not wordy:
        raise CatalogueError(
            f"no field holds words, among {', '.join(profile.name for profile in profiles[:12])}",
            next_step="a catalogue needs at least a title for each product",
        )

    def likeness(profile: FieldProfile) -> float:
        """Titles are there for all products, differ, and have some 8 words."""
        variety = profile.distinct / profile.products
        return profile.coverage * variety / (1 + abs(math.log(max(profile.words, 0.1) / 8)))

    best = max(wordy, key=likeness)
    return Choice(
        best.name, "text", f"most like a title: {best.words:.0f} words, {_percent(best.coverage)} of products"
    )


def _refusal(profile: FieldProfile) -> str | None:
    """Why a field can be no attribute, whatever its name; None if it can."""
    is_number = profile.numbers >= 0.8
    if profile.booleans >= 0.8:
        return "true or false"
    if max(profile.urls, profile.dates) >= 0.5 or field_names.is_no_attribute(profile.name):
        return "links, dates, prices, article numbers and the like"
    if is_number and (field_names.standalone_type(profile.name) not in NUMERIC_TYPES or profile.repetition < 0.8):
        return "bare numbers"
    if profile.products < 2 or profile.coverage < 0.01:
        return "fewer than 1 % of products have it"
    if profile.longest_share > 0.3 or profile.words > 6:
        return "long texts"
    if profile.repetition < 0.5:
        return "values that few products share"
    return "one value for all" if profile.top_share > 0.98 else None


def _choose_attributes(profiles: Sequence[FieldProfile]) -> tuple[Choice, ...]:
    category = max(profiles, key=_category_score, default=None)
    has_category = category is not None and _category_score(category) > 0
    choices = [(math.inf, _category_choice(category))] if category and has_category else []
    for profile in profiles:
        if not (has_category and profile is category):
            choices.append((_worth(profile), _attribute_choice(profile)))
    ranked = sorted(choices, key=lambda pair: -pair[0])
    return tuple(choice for worth, choice in ranked[:MAX_ATTRIBUTE_FIELDS] if worth >= 0.01)


def _category_score(profile: FieldProfile) -> float:
    return field_names.category_certainty(profile.name) * profile.coverage * profile.diversity


def _category_choice(profile: FieldProfile) -> Choice:
    return Choice(profile.name, "type", f"its name is one of a category; {_figures(profile)}")


def _attribute_choice(profile: FieldProfile) -> Choice:
    named = field_names.named_type(profile.name)
    if named:
        return Choice(profile.name, named, f"its name; {_figures(profile)}", is_number=profile.numbers > 0.5)
    own = field_names.own_type(profile.name, ATTRIBUTE_TYPES)
    return Choice(profile.name, own, f"short values that products share; {_figures(profile)}")


def _worth(profile: FieldProfile) -> float:
    known = 2.0 if field_names.named_type(profile.name) else 1.0
    return known * profile.coverage * profile.repetition


def _with_other_texts(named: tuple[Choice, ...], profiles: Sequence[FieldProfile]) -> tuple[Choice, ...]:
    wordy = [p for p in profiles if p.is_wordy and p.words >= 1.5 and p.coverage >= 0.2 and p.distinct > 1]
    fitting = [p for p in wordy if not field_names.is_no_attribute(p.name) and p.repetition < 0.9]
    ranked = sorted(fitting, key=lambda p: -p.coverage * min(p.words * p.per_product, 30.0))
    others = (Choice(p.name, "text", f"words of its own: {p.words:.0f} a value, {_figures(p)}") for p in ranked)
    return (*named, *others)[:MAX_TEXT_FIELDS]


def _figures(profile: FieldProfile) -> str:
    return f"{_percent(profile.coverage)} of products, {profile.distinct} values such as {profile.examples[0][:40]!r}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"
