"""The one error of all readers of data."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the place in it and what is wrong."""
