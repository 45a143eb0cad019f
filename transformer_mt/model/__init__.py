"""The Transformer of the paper: tensors in, tensors out. No text, no files."""
