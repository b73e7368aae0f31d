class UserError(Exception):
    """Say what is wrong with the user's input, with the value received, and how to repair it.

    Scripts print the message without a traceback and exit with code 2.
    """
