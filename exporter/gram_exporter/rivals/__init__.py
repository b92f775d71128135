"""Rivals of codes that `gram evaluate` can put beside them: dense encoders, expansion, an oracle. Benchmarks only."""
