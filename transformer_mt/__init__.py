"""transformer_mt: train your own machine translation engine on a hand-written Transformer."""

__version__ = "0.1.0"
