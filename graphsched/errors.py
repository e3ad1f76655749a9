"""Every error that input can cause: one sentence, exit code 2 on the command line."""


class Error(Exception):
    """Base of all errors that bad input, bad options or a bad file can cause."""


class LoadError(Error):
    """A model file that cannot be read: the sentence names file, tensor or key."""


class ShapeError(Error):
    """Operands that do not fit each other: the sentence names op, operands and shapes."""


class OptionError(Error):
    """An option value outside its valid range."""


class ContextError(Error):
    """More tokens than the session's context holds."""
