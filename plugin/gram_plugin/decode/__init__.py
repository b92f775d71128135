"""Decoding on the serving side: trie, beam search and ONNX sessions, without torch."""
