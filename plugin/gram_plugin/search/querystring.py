"""What a query string excludes: the parts behind `-`, `!` and NOT, told from what it looks for.

`query_string` and `simple_query_string` have a small language of their own each; where they differ, OpenSearch's
parsers are followed. Clients write these texts, so the work is linear in their length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SYNTAX_QUERIES = frozenset({"query_string", "simple_query_string"})

_PHRASE = r'"(?:[^"\\]++|\\.)*+"'
_TOKEN = {
    "query_string": re.compile(rf'{_PHRASE}|[-+!]|(?:\\.|[^\s()"!\\^~])++|[~^][\d.]*+|\s++|.', re.DOTALL),
    "simple_query_string": re.compile(rf'{_PHRASE}|[-+!|]|(?:\\.|[^\s()"|+\\])++|\s++|.', re.DOTALL),
}
"""A sign is a token of its own only where a word could begin: `t-shirt` is one word."""
_SIGNS = ("-", "!", "NOT")
_NO_OPERAND = frozenset({")", '"', "-", "+", "!", "|", "AND", "OR", "NOT", "&&", "||"})
_FIELD_OR_RANGE = re.compile(r"[:\[\]{}/]")


@dataclass(frozen=True)
class Negations:
    """A query string, taken apart.

    Attributes:
        kept: the text without what it excludes; quotes and other operators stay.
        excluded: each excluded word, phrase or group, without its sign; a query string by itself.
        clear: whether that is all; False where a sign stands before something that is not understood.
    """

    kept: str
    excluded: tuple[str, ...]
    clear: bool


def negations(kind: str, text: str) -> Negations:
    """What a text excludes, `kind` being one of `SYNTAX_QUERIES`."""
    if not any(sign in text for sign in _SIGNS):
        return Negations(text, (), clear=True)
    tokens = _TOKEN[kind].findall(text)
    closing = _closing(tokens)
    kept, excluded, clear, at = [], [], True, 0
    while at < len(tokens):
        start = _behind_sign(kind, tokens, at)
        end = _end_of_part(tokens, start, closing) if start else None
        if start and end:
            excluded.append("".join(tokens[start:end]))
        else:
            clear &= start is None
        kept.append(" " if end else tokens[at])
        at = end or at + 1
    named = kind == "query_string" and any(map(_FIELD_OR_RANGE.search, excluded))
    return Negations("".join(kept), tuple(excluded), clear and not named)


def _closing(tokens: Sequence[str]) -> dict[int, int]:
    """The place of the closing parenthesis of each opening one that has one."""
    opened: list[int] = []
    closing: dict[int, int] = {}
    for at, piece in enumerate(tokens):
        if piece == "(":
            opened.append(at)
        elif piece == ")" and opened:
            closing[opened.pop()] = at
    return closing


def _behind_sign(kind: str, tokens: Sequence[str], at: int) -> int | None:
    """Where that begins which the token at a place negates; None if it is no sign.

    White space ends a sign in `simple_query_string` and is skipped in `query_string`.
    """
    sign, start = tokens[at], at + 1
    if sign not in _SIGNS or start == len(tokens):
        return None
    if tokens[start].isspace():
        if sign != "NOT" and kind != "query_string":
            return None
        start += 1
    return start if start < len(tokens) else None


def _end_of_part(tokens: Sequence[str], start: int, closing: dict[int, int]) -> int | None:
    """Behind the word, phrase or group that begins at a place, with its `~2` and `^3`; None if none does."""
    last = closing.get(start) if tokens[start] == "(" else start
    if last is None or tokens[start] in _NO_OPERAND:
        return None
    end = last + 1
    while end < len(tokens) and tokens[end][0] in "~^":
        end += 1
    return end
