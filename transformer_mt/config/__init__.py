"""The configuration: what its keys are, and how it is read and checked."""
