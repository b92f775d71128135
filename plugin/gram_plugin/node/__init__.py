"""An OpenSearch of one's own, for demo and tests."""
