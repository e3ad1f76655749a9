"""The commands, one module each: `command` is what the command line runs, imported when it is named."""
