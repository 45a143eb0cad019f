"""Greedy, beam and sampling search: ids in, ids out."""
