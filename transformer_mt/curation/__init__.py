"""Parallel text before training: what is in it, what is wrong with it, and files made of it."""
