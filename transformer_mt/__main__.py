"""``python -m transformer_mt`` is ``tmt``; torchrun needs a module to run."""

from transformer_mt.cli.main import main

main()
