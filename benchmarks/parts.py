"""Where the time of one decoded query goes: a generator whose parts are watched by a clock."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import onnxruntime as ort

from gram_plugin.contract.codes import Role
from gram_plugin.decode.beam import Ranking
from gram_plugin.decode.generator import OnnxGenerator

ENCODER, DECODER, TOKENISING = "encoder", "decoder steps", "tokenising"
LINEAR, NEAREST, WRITTEN, WHOLE = "linear arm", "nearest queries", "generator", "whole"
BEAM, BLENDING = "beam and trie", "blending, calibration"
_RUNS = ("run", "run_with_iobinding", "run_with_ort_values")


@dataclass
class Clock:
    """Seconds and calls of every part; a part that holds another counts it in."""

    seconds: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start
            self.calls[name] += 1

    def shares(self) -> dict[str, float]:
        """Seconds of each part by itself, those within it taken out; they add up to the whole."""
        inner = {name: self.seconds[name] for name in (TOKENISING, ENCODER, DECODER, NEAREST)}
        within = sum(inner[name] for name in (TOKENISING, ENCODER, DECODER))
        own = {BEAM: self.seconds[WRITTEN] - within, LINEAR: self.seconds[LINEAR] - inner[NEAREST]}
        rest = self.seconds[WHOLE] - self.seconds[WRITTEN] - self.seconds[LINEAR]
        return {**inner, **own, BLENDING: rest}


class _Watched:
    """An object some of whose methods are timed; everything else is its own."""

    def __init__(self, inner: Any, clock: Clock, part: str, methods: Sequence[str]) -> None:
        self._inner, self._clock, self._part, self._methods = inner, clock, part, frozenset(methods)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._methods:
            return found

        def timed(*given: Any, **named: Any) -> Any:
            with self._clock.part(self._part):
                return found(*given, **named)

        return timed


def watched(generator: OnnxGenerator, clock: Clock) -> OnnxGenerator:
    """The same generator, its parts timed by `clock`; the watching costs some microseconds a call."""

    class Timed(OnnxGenerator):
        """Times what the generator writes by itself."""

        def written(self, texts: Sequence[str], role: Role, limit: int) -> list[Ranking]:
            with clock.part(WRITTEN):
                return super().written(texts, role, limit)

    own: dict[str, Any] = {item.name: getattr(generator, item.name) for item in fields(generator)}
    own |= {
        "session": _with_watched_graphs(generator.session, clock),
        "tokenizer": _Watched(generator.tokenizer, clock, TOKENISING, ("encode",)),
        "linear": _watched_linear(generator, clock),
    }
    return Timed(**own)


def _with_watched_graphs(holder: Any, clock: Clock) -> Any:
    """A dataclass with every graph in it watched; a graph counts as encoder or decoder by the name of its field."""
    changed = {}
    for item in fields(holder):
        value = getattr(holder, item.name)
        if isinstance(value, ort.InferenceSession):
            part = ENCODER if "encoder" in item.name else DECODER
            changed[item.name] = _Watched(value, clock, part, _RUNS)
        elif is_dataclass(value):
            changed[item.name] = _with_watched_graphs(value, clock)
    return replace(holder, **changed)


def _watched_linear(generator: OnnxGenerator, clock: Clock) -> Any:
    linear: Any = generator.linear
    if linear is None:
        return None
    if linear.nearest is not None:
        linear = replace(linear, nearest=_Watched(linear.nearest, clock, NEAREST, ("likely",)))
    return _Watched(linear, clock, LINEAR, ("likely",))
