"""Where sentence pairs come from: one file for each family of formats."""
