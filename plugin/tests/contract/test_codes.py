"""Codes and their wire text: one spelling each, and a way back."""

from __future__ import annotations

import unicodedata
from urllib.parse import unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gram_plugin.contract.codes import (
    ATTRIBUTE_TYPES,
    MAX_STORED_BYTES,
    Attribute,
    Code,
    Granularity,
    canonical_value,
    check_generation,
    fold,
    parse_stored,
    readable_value,
)
from gram_plugin.errors import CodeError

type_names = st.sampled_from(ATTRIBUTE_TYPES) | st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


@st.composite
def attributes(draw: st.DrawFn) -> Attribute:
    """Any attribute whose value is not empty."""
    raw = draw(st.text(min_size=1, max_size=12))
    assume(canonical_value(raw))
    return Attribute.of(draw(type_names), raw)


@st.composite
def codes(draw: st.DrawFn) -> Code:
    """Any code that is not too long."""
    chosen = draw(st.lists(attributes(), min_size=1, max_size=6))
    try:
        return Code.of(chosen)
    except CodeError:
        assume(False)
        raise


@given(codes())
def test_parse_is_the_inverse_of_text(code: Code) -> None:
    """Every code is read back from its own text, whatever is in its values."""
    assert Code.parse(code.text) == code


@given(codes(), st.integers(1, 9999))
def test_a_stored_code_is_split_again(code: Code, number: int) -> None:
    """Generation and code come back, within the bytes that an index term may have."""
    stored = code.stored(f"g{number}")
    assert parse_stored(stored) == (f"g{number}", code)
    assert len(stored.encode()) <= MAX_STORED_BYTES


@given(st.lists(attributes(), min_size=1, max_size=6), st.randoms())
def test_order_and_repetition_of_attributes_do_not_matter(chosen: list[Attribute], random: object) -> None:
    """The same attributes are the same code."""
    shuffled = [*chosen, *chosen[:1]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    try:
        expected = Code.of(chosen)
    except CodeError:
        assume(False)
    assert Code.of(shuffled) == expected


@given(st.text(max_size=40))
def test_a_canonical_value_is_read_back_to_itself(raw: str) -> None:
    """Making a decoded value canonical again changes nothing."""
    value = canonical_value(raw)
    assert canonical_value(unquote(value)) == value


@given(st.text(max_size=40))
def test_a_canonical_value_holds_nothing_that_splits_codes(raw: str) -> None:
    """No white space, no control, no separator, no dot; a percent sign only before two hex digits."""
    value = canonical_value(raw)
    assert not set(value) & set("|=. \t\n")
    assert not any(unicodedata.category(character) == "Cc" for character in value)
    assert all(len(part) >= 2 and int(part[:2], 16) >= 0 for part in value.split("%")[1:])
    assert value.encode("utf-8").decode("utf-8") == value


@given(st.text(alphabet="tybe=x|_%2E ", max_size=12))
def test_a_text_is_refused_or_is_the_text_of_its_code(text: str) -> None:
    """No two texts are read as the same code."""
    try:
        code = Code.parse(text)
    except CodeError:
        return
    assert code.text == text


def test_a_value_is_readable_as_words() -> None:
    """Underscores and percent codes become what people write."""
    assert readable_value("13%2E3_zoll") == "13.3 zoll"


@given(st.text(max_size=40))
def test_folding_twice_is_folding_once(text: str) -> None:
    """Case folding and NFKC reach a fixed point."""
    assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("Running Shoe", "running_shoe"),
        ("  13.3  Zoll ", "13%2E3_zoll"),
        ("A|B=C%", "a%7Cb%3Dc%25"),
        ("ＨＰ", "hp"),
        ("Straße", "strasse"),
        ("a\x00b", "a%00b"),
        ("\ud800", "?"),
    ],
)
def test_values_are_spelled_in_one_way(raw: str, value: str) -> None:
    """Case, width, white space and reserved characters have one form."""
    assert canonical_value(raw) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "type",
        "type=",
        "=x",
        "Type=x",
        "type=X",
        "type=a b",
        "brand=hp|type=x",
        "type=x|type=x",
        "type=x|",
        "type=a.b",
    ],
)
def test_a_text_that_is_not_canonical_is_refused(text: str) -> None:
    """It could never equal a stored code, so it is an error and not a code."""
    with pytest.raises(CodeError):
        Code.parse(text)


def test_a_code_has_at_most_six_attributes() -> None:
    """The message says how many were found."""
    seven = [Attribute.of(name, "x") for name in ATTRIBUTE_TYPES[:7]]
    with pytest.raises(CodeError, match="1 to 6 attributes, found 7"):
        Code.of(seven)
    with pytest.raises(CodeError, match="1 to 6 attributes, found 0"):
        Code.of([])


def test_a_code_longer_than_an_index_term_may_be_is_refused() -> None:
    """250 bytes and a generation of five digits fit, one byte more does not."""
    longest = MAX_STORED_BYTES - len("g9999/") - len("type=")
    assert Code.of([Attribute.of("type", "x" * longest)]).text == "type=" + "x" * longest
    with pytest.raises(CodeError, match="longer than 256 bytes"):
        Code.of([Attribute.of("type", "x" * (longest + 1))])


def test_the_category_comes_first_and_own_types_last() -> None:
    """GRAM's types keep their order, the owner's follow by name."""
    made = [Attribute.of(name, "x") for name in ("zoom", "brand", "screen_size", "colour", "type")]
    assert Code.of(made).text == "type=x|brand=x|colour=x|screen_size=x|zoom=x"


@pytest.mark.parametrize(("name", "value"), [("Type", "x"), ("", "x"), ("1a", "x"), ("a-b", "x"), ("type", " \t")])
def test_an_attribute_needs_an_identifier_and_a_value(name: str, value: str) -> None:
    """Types are lower-case identifiers and a value has at least one character."""
    with pytest.raises(CodeError):
        Attribute.of(name, value)


@pytest.mark.parametrize(
    ("count", "granularity"),
    [(1, Granularity.COARSE), (2, Granularity.COARSE), (3, Granularity.MEDIUM), (4, Granularity.FINE)],
)
def test_granularity_counts_attributes(count: int, granularity: Granularity) -> None:
    """Coarse up to two, medium three, fine more."""
    assert Code.of(Attribute.of(name, "x") for name in ATTRIBUTE_TYPES[:count]).granularity == granularity


@pytest.mark.parametrize("generation", ["", "g", "g0", "g01", "G1", "3", "g1/"])
def test_a_generation_is_g_and_a_number(generation: str) -> None:
    """Anything else could be confused with a part of a code."""
    with pytest.raises(CodeError, match="not of the form g1, g2"):
        check_generation(generation)


def test_a_stored_code_needs_its_generation() -> None:
    """A bare code is not taken for one of any generation."""
    with pytest.raises(CodeError, match="no generation prefix"):
        parse_stored("type=x")
