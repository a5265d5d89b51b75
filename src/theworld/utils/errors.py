"""Error messages for people."""


def one_line(error: BaseException) -> str:
    """The message of `error` on one line, without the quotes that a `KeyError` puts around its own."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split())
