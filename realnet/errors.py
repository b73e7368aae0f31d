class UserError(Exception):
    """Say what is wrong with the user's input, with the value received, and how to repair it.

    Scripts print the message without a traceback and exit with code 2.
    """


def message_of(error: UserError) -> str:
    """Return the message alone; a worker of a DataLoader hands its errors on wrapped in a traceback."""
    return str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2]
