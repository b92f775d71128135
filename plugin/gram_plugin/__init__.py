"""Serving side of gram-opensearch: codes, decoding, the sidecar and the shim, without torch."""
