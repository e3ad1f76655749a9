"""Every error that input can cause: one sentence, exit code 2 on the command line."""


class Error(Exception):
    """Base of all errors that bad input, bad options or a bad file can cause."""


class LoadError(Error):
    """A model file that cannot be read: the sentence names file, tensor or key."""


class ShapeError(Error):
    """Operands that do not fit each other: the sentence names op, operands and shapes."""


class OptionError(Error):
    """An option value that cannot be used.

    `option` is the option that the sentence begins with, if it does; a command line calls it by its flag.
    """

    def __init__(self, what: str, option: str = "") -> None:
        super().__init__(f"{option} {what}" if option else what)
        self.what, self.option = what, option


class StoreError(Error):
    """A file that could not be written: the disk is full, or writing is not allowed."""


class ContextError(Error):
    """More tokens than the session's context holds."""
