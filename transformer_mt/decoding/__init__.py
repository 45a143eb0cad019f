"""Text in, translations out, with a model that is trained."""
