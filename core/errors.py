"""The one exception that means: the user can fix this."""


class InputError(Exception):
    """A mistake in what the user gave: one or two lines naming file, row, column and remedy."""
