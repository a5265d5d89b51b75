"""Error messages for people."""


def one_line(error: BaseException) -> str:
    """The message of `error` on one line, without the quotes that a `KeyError` puts around its own."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split())


class CausedError(ValueError):
    """An error that is counted by its cause.

    Args:
        cause: One word.
        detail: One line for a person.
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(cause, detail)  # both, so that it can be pickled
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return self.detail
