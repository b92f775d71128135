"""How shoppers mistype a word: a slip of the finger or of the ear."""

from __future__ import annotations

from gram_exporter.shop.dice import Dice

# fmt: off
_NEIGHBOURS = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok", "o": "ipl",
    "p": "ol", "a": "qsz", "s": "adw", "d": "sfe", "f": "dgr", "g": "fht", "h": "gjy", "j": "hku", "k": "jli",
    "l": "ko", "z": "xa", "x": "zcs", "c": "xvd", "v": "cbf", "b": "vng", "n": "bmh", "m": "nj",
}
# fmt: on
_SOUNDS = (("ph", "f"), ("ck", "k"), ("ee", "ea"), ("ie", "ei"), ("ch", "sh"), ("y", "i"), ("ou", "u"), ("c", "k"))


def misspell(word: str, dice: Dice) -> str:
    """Changes one spot of a word of four or more letters; shorter words come back as they are."""
    if len(word) < 4:
        return word
    slips = (_swap, _drop, _double, _neighbour, _sound)
    for slip in [dice.weighted(slips, (3, 3, 2, 2, 2)), *slips]:
        changed = slip(word, 1 + dice.index(len(word) - 2), dice)
        if changed != word:
            return changed
    return word


def _swap(word: str, at: int, dice: Dice) -> str:
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _drop(word: str, at: int, dice: Dice) -> str:
    return word[:at] + word[at + 1 :]


def _double(word: str, at: int, dice: Dice) -> str:
    return word[: at + 1] + word[at:]


def _neighbour(word: str, at: int, dice: Dice) -> str:
    return word[:at] + dice.pick(_NEIGHBOURS.get(word[at].casefold(), word[at])) + word[at + 1 :]


def _sound(word: str, at: int, dice: Dice) -> str:
    fitting = [pair for pair in _SOUNDS if pair[0] in word[1:]]
    if not fitting:
        return word
    heard, written = dice.pick(fitting)
    return word[0] + word[1:].replace(heard, written, 1)
