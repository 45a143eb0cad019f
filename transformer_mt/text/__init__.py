"""Text and its pieces: tokenizers, sentences, scripts."""
