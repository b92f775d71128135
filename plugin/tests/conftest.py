"""What tests of several rooms share: a generator that can be listened to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import pytest

from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.decode.session import Batch, DecoderSteps, Seq2SeqSession

Shapes = list[tuple[int, int]]


@dataclass(frozen=True)
class ListeningSession(Seq2SeqSession):
    """Remembers texts and columns, padding included, of every batch that it reads."""

    shapes: Shapes

    def read(self, batch: Batch, *, start: int, offset: int = 0) -> DecoderSteps:
        """As the session itself."""
        self.shapes.append((len(batch.ids), len(batch.ids[0])))
        return super().read(batch, start=start, offset=offset)


@pytest.fixture
def listened_to() -> Callable[[OnnxGenerator], tuple[OnnxGenerator, Shapes]]:
    """Gives the same generator again, and the shapes of the batches that it will have read."""

    def listen(generator: OnnxGenerator) -> tuple[OnnxGenerator, Shapes]:
        shapes: Shapes = []
        parts = {part.name: getattr(generator.session, part.name) for part in fields(generator.session)}
        return replace(generator, session=ListeningSession(**parts, shapes=shapes)), shapes

    return listen
