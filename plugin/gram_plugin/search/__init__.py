"""Everything that talks to OpenSearch: mappings, clause, bulk."""
