"""transformer_mt: train your own machine translation engine on a hand-written Transformer."""

import os
import sys

__version__ = "0.2.0.dev0"

# OpenMP's threads spin while they wait for each other. Beside another busy process that takes the time from the one
# that they wait for: a training step becomes several times slower. After some thousand turns they sleep. After fewer
# they would sleep between any two operations of PyTorch, and waking takes long on virtual machines
# (docs/performance.md). Read once, when PyTorch loads the library; whoever has chosen is left alone.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
