"""The error every reader raises for data that cannot be used."""


class DataError(ValueError):
    """Says in one line which file and line is wrong, what was expected and what came."""
