"""The built-in English-German corpus: a translator can be trained without any files."""
