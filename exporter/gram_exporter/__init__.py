"""Workshop of gram-opensearch: attributes, codebook, training, export and evaluation; needs the extra `exporter`."""
