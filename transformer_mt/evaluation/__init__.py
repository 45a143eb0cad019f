"""What translations are worth: scores with their signatures, what they look like from outside, curves of runs."""
