"""Functions that return without having done their work, and ones that are bound to something: what @task and BackgroundTask
make of them. Imported by name, as a worker does it."""

import asyncio
import concurrent.futures
import dataclasses
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pydantic

did: list[Any] = []
pool = concurrent.futures.ThreadPoolExecutor(1)


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """An ordinary decorator that knows nothing of coroutines."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@logged
async def wrapped(item: str) -> str:
    await asyncio.sleep(0)
    did.append(item)
    return item.upper()


def in_a_pool(item: str) -> Any:
    return pool.submit(did.append, item)


async def returns_a_coroutine(item: str) -> Any:
    return wrapped(item)


@logged
def generates(item: str) -> Iterator[str]:
    did.append(item)
    yield item


@logged
async def generates_async(item: str) -> AsyncIterator[str]:
    did.append(item)
    yield item


def maps(item: str) -> Any:
    return map(did.append, [item])


@dataclasses.dataclass
class Sent:
    what: Any


class SentModel(pydantic.BaseModel):
    what: Any


def in_a_dataclass(item: str) -> Any:
    return [Sent(did.append(one) for one in item)]


def in_a_model(item: str) -> Any:
    return SentModel(what=[map(did.append, [item])])


def not_called(item: str) -> Any:
    return functools.partial(did.append, item)


def the_function(item: str) -> Any:
    return wrapped


def the_class(item: str) -> Any:
    return Mail


def thread(item: str) -> Any:
    return threading.Thread(target=did.append, args=(item,))


def request(item: str) -> Any:
    return httpx.Request("POST", f"http://127.0.0.1/{item}")


class Mail:
    def __init__(self, server: str = "none"):
        self.server = server

    def send(self, number: int) -> None:
        did.append((self.server, number))

    @classmethod
    def send_all(cls, number: int) -> None:
        did.append((cls.__name__, number))

    @staticmethod
    def send_one(number: int) -> None:
        did.append(number)

    def __call__(self, number: int) -> None:
        did.append((self.server, number))


class Fast(Mail):
    pass


def plain(number: int, name: str = "x") -> None:
    did.append((number, name))


@logged
def decorated(number: int) -> None:
    did.append(number)


def original(number: int) -> None:
    did.append(("original", number))


elsewhere = logged(original)


def nested() -> Callable[..., None]:
    def inner(number: int) -> None:
        did.append(number)

    return inner


def counts(upto: int) -> Iterator[int]:
    yield from range(upto)


async def counts_async(upto: int) -> AsyncIterator[int]:
    for n in range(upto):
        yield n
