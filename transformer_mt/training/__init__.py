"""Training a model: what is set up once, and the loop that runs after it."""
