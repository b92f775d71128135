"""What all tests share: Hypothesis judges what a test finds, not how long it takes: a busy machine must fail none."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")
