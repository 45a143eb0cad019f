"""The command line: a file for each group of commands. Thin: options in, one function called, one line of refusal."""
