"""Models for other programs: one file per target, each a complete description or a refusal."""
