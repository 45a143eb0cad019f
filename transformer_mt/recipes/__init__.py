"""`tmt init`: from the text that somebody has to a configuration in which each choice says why."""
