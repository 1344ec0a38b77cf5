"""The error a user can mend: shown as one sentence, exit status 2."""


class DemoError(Exception):
    """A bad option, a damaged file, a missing package: its text is one complete sentence."""
