"""Models, checkpoints and runs on disk, whole or not there at all."""
