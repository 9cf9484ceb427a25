"""The one exception that is shown to a user without a traceback."""


class MgsrError(Exception):
    """Something the user can put right. The message says what was wrong, where, and what to do."""
