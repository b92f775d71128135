"""The judge of alignment: held-out feedback that says, page by page, whether a change of the model helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gram_exporter.prepare import Prepared
from gram_exporter.trial import Hits, Probabilities, Trial
from gram_exporter.writing import Writer
from gram_plugin.contract.codes import BEAM_WIDTH, Role
from gram_plugin.progress import Progress

FEWEST_HELD = 50
"""Held-out queries below which nobody could say whether it helped."""
MOST_HELD = 300


@dataclass(frozen=True)
class Judge:
    """Held-out queries, by rendered text, with what they want and what the words find for them."""

    trial: Trial
    wanted: Mapping[str, Mapping[int, float]]
    found: Sequence[Hits]

    @classmethod
    def of(cls, prepared: Prepared, progress: Progress) -> Judge | None:
        """None where too little feedback is held out, or none is left to learn from."""
        if len(prepared.held) < FEWEST_HELD or not prepared.queries:
            return None
        progress("read the catalogue", 0, 1)
        row_of = {key: row for row, key in enumerate(prepared.ids)}
        wanted = {
            text: {row_of[key]: weight for key, weight in products.items()}
            for text, products in list(prepared.held.items())[:MOST_HELD]
        }
        trial = Trial(prepared.texts, prepared.codebook)
        judge = cls(trial, wanted, [trial.by_words(text) for text in wanted])
        progress("read the catalogue", 1, 1)
        return judge

    @property
    def worth_of_words(self) -> float:
        """What the pages are worth without any code, 0 to 1."""
        return float(self.worths(lambda _text: None).mean())

    def worths(self, probabilities: Probabilities) -> npt.NDArray[np.float64]:
        """What every held-out page is worth with these codes, shape (queries,), 0 to 1."""
        return self.trial.worths(probabilities, self.wanted, self.found)

    def worths_written(self, writer: Writer) -> npt.NDArray[np.float64]:
        """What every held-out page is worth with the codes that a generator writes, shape (queries,), 0 to 1."""
        texts = list(self.wanted)
        rankings = dict(zip(texts, writer.written(texts, Role.QUERY, BEAM_WIDTH), strict=True))

        def probabilities(text: str) -> npt.NDArray[np.float64]:
            found = np.zeros(len(self.trial.rarity))
            found[rankings[text].code] = np.exp(rankings[text].log_probability)
            return found

        return self.worths(probabilities)


def surely_better(worths: npt.NDArray[np.float64], than: npt.NDArray[np.float64]) -> bool:
    """Whether the mean gain, query by query, is above its standard error: less is as likely to be chance."""
    gain = worths - than
    return bool(gain.mean() > gain.std() / np.sqrt(len(gain)))
