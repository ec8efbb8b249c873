"""The project's exceptions.

Every error that a user can cause and repair is a `FlexrecError`: the command line prints its message alone, without a
traceback, so the message has to name the file, row, key or field and what to do about it.
"""


class FlexrecError(Exception):
    """Base of the errors whose message is written for the user."""


class InputError(FlexrecError, ValueError):
    """Data, configuration or a file that cannot be used as it is."""
