"""From parallel text to the batches of an update."""
