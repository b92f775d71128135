"""What the workshop and the serving side agree on: codes, text rendering, catalogue files, bundles."""
