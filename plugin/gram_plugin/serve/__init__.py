"""The programs that operators run: the ingest sidecar and the query shim."""
