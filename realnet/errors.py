from collections.abc import Callable, Iterable
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class UserError(Exception):
    """Say what is wrong with the user's input, with the value received, and how to repair it.

    Scripts print the message without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Stopped(Exception):
    """A signal has ended the work early: it is saved, and the text says how to go on. Scripts exit with code 0."""


def for_each(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> list[ResultT]:
    """Return what the function makes of each item.

    Raises:
        UserError: where it refuses some: all refusals in one message, equal ones once.
    """
    results: list[ResultT] = []
    refusals: list[str] = []
    for item in items:
        try:
            results.append(function(item))
        except UserError as error:
            refusals.append(str(error))
    if refusals:
        raise UserError("\n".join(dict.fromkeys(refusals)))
    return results


def message_of(error: UserError) -> str:
    """Return the message alone; a worker of a DataLoader hands its errors on wrapped in a traceback."""
    return str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2]


def printable(text: str) -> str:
    """Return the text with backslashes for what UTF-8 cannot write, as of file names that are not in it."""
    return text.encode(errors="backslashreplace").decode()
