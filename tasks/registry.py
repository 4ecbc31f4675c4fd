"""What a task is: one function with one decorator.

`@task` reads the function's signature once. A parameter annotated with an HTTP client is *injected*; the
first other parameter of a task that has items is the *item*; what remains, together with the parameters of
the item source, are the job's *arguments*: their types, defaults and the docstring make the form and check
the JSON. Shapes: a task with items is called once per item ('items'); any other is called once, and may
report its steps as items ('body', see steps.py).
"""

import importlib
import inspect
import re
import threading
import traceback
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack

import msgspec

from rowcast.tasks import notify
from rowcast.tasks.annotations import Reader, converts, item_reader_of
from rowcast.tasks.arguments import Argument, argument_of, parameters_of
from rowcast.tasks.concurrency import parse_concurrency
from rowcast.tasks.encoding import as_json, from_json
from rowcast.tasks.entries import demand_itself, entry_of, named
from rowcast.tasks.filters import checked_tags
from rowcast.tasks.mail import Mailer
from rowcast.tasks.notify import Notify
from rowcast.tasks.python_path import why_hidden
from rowcast.tasks.records import BadArguments
from rowcast.tasks.returned import demand_runs
from rowcast.tasks.secret import names_secret, with_secrets
from rowcast.tasks.sources import ITEM_SOURCES, SOURCE_CHECKS, given_items

CLIENT_MODULES = ("httpx", "pyreqwest", "aiohttp")
RETRY_CODES = frozenset({408, 425, 429, 500, 502, 503, 504})
SLOWEST = 1e-6  # starts per second
FASTEST = 1e6


class TaskSettings(TypedDict, total=False):
    """What the decorator `task` may be told; what each means stands there, its default at the class Task."""

    name: str | None
    items: Callable[..., Iterable[Any]] | None
    concurrency: int | str
    rate: str | float | None
    max_attempts: int
    timeout: float | None
    idempotent: bool
    retry_codes: Iterable[int]
    backoff: float
    backoff_max: float
    stop_after: str | int | None
    stamp: str | None
    doing: str
    notify: Iterable[dict[str, Any] | Notify]
    tags: Iterable[str]


@dataclass
class Task:
    """A registered function and how it wants to be run. Made by `task`; calling it calls the function."""

    function: Callable[..., Any]
    name: str
    entry: str  # 'module:function'
    items: Callable[..., Iterable[Any]] | None = None
    item: str | None = None  # the parameter that gets an item
    item_type: Any = Any  # its annotation
    # the annotation of each parameter that gets a client
    clients: dict[str, Any] = field(default_factory=dict)
    arguments: list[Argument] = field(default_factory=list)
    source_arguments: list[str] = field(default_factory=list)
    concurrency: int | str = 10  # as tasks/concurrency.py reads it
    pace: float | None = None  # starts per second
    max_attempts: int = 1
    timeout: float | None = None  # seconds
    idempotent: bool = True
    retry_codes: frozenset[int] = RETRY_CODES
    backoff: float = 1.0  # seconds
    backoff_max: float = 60.0
    stop_after: str | None = None
    stamp: str | None = None
    doing: str = "Running"
    notify: tuple[Notify, ...] = ()
    tags: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def shape(self) -> str:
        return "items" if self.item else "body"

    @property
    def mails(self) -> bool:
        """Whether it may send a mail for each of its items, which a dry run then shows."""
        return self.item is not None and Mailer in self.clients.values()

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @property
    def help(self) -> str:
        return inspect.getdoc(self.function) or ""

    @cached_property
    def form(self) -> type[msgspec.Struct]:
        """The arguments as one record, for a description of them."""
        fields: list[Any] = [
            (a.name, a.described)
            if a.required
            else (a.name, a.described, msgspec.field(default_factory=a.of_default))
            for a in sorted(self.arguments, key=lambda a: not a.required)
        ]
        return msgspec.defstruct(f"{self.name}_args", fields, forbid_unknown_fields=True, kw_only=True)

    def check(self, args: dict[str, Any], strict: bool = True) -> dict[str, Any]:
        """`args` with types checked and defaults filled in, as JSON of `encoding`: `typed` gives the values
        again.

        strict=False also turns a form's strings into numbers. Raises BadArguments.
        """
        if unknown := args.keys() - {argument.name for argument in self.arguments}:
            raise BadArguments(f"{self.name}: unknown argument `{min(unknown)}`.")
        checked = {}
        for argument in self.arguments:
            value = (
                self._read(argument, args[argument.name], strict)
                if argument.name in args
                else argument.of_default()
            )
            if value is msgspec.NODEFAULT:
                raise BadArguments(f"{self.name}: missing argument `{argument.name}`.")
            try:
                checked[argument.name] = as_json(value)
            except TypeError as error:
                raise BadArguments(f"{self.name}: argument `{argument.name}`: {error}.") from None
        if self.items and (source_check := SOURCE_CHECKS.get(self.items)):
            source_check(checked)
        return checked

    def _read(self, argument: Argument, value: Any, strict: bool) -> Any:
        try:
            return argument.reader(value, strict)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            text, _, where = str(error).partition(" - at `$")
            text = text.rstrip(".").removeprefix("Value error, ")
            named = f"{argument.name}{where.rstrip('`')}"
            why = f"{text[:1].lower()}{text[1:]}"
            raise BadArguments(f"{self.name}: argument `{named}`: {why}.") from None

    def typed(self, args: dict[str, Any], opened: dict[str, str] | None = None) -> dict[str, Any]:
        """A job's arguments, which have been JSON, as the values that they were: a date is a date again.
        `opened`: what its secrets are, by their seals.
        """
        return {name: from_json(value) for name, value in with_secrets(args, opened or {}).items()}

    def call_arguments(self, args: dict[str, Any], opened: dict[str, str] | None = None) -> dict[str, Any]:
        """The part of a job's arguments that the function itself takes."""
        return {name: value for name, value in self.typed(args, opened).items() if name in self.parameters}

    @cached_property
    def parameters(self) -> Collection[str]:
        """The names of what the function itself takes."""
        return inspect.signature(self.function).parameters.keys()

    def source_values(self, args: dict[str, Any], opened: dict[str, str] | None = None) -> dict[str, Any]:
        """The part of a job's arguments that its item source takes."""
        args = self.typed(args, opened)
        return {name: args[name] for name in self.source_arguments if name in args}

    @cached_property
    def item_reader(self) -> Reader | None:
        """What makes of an item a value of its parameter's annotation; None where it is given as it came."""
        return item_reader_of(self.item_type)


REGISTRY: dict[str, Task] = {}
LOOKING_ANEW = threading.Lock()  # of two that do so at once, one fails over what the other has just forgotten


def is_built_in(task: Task) -> bool:
    return task.entry.startswith("rowcast.tasks.")


def task(function: Callable[..., Any] | None = None, **settings: Unpack[TaskSettings]) -> Any:
    """Register a function as a task.

    items: a function that yields the items (dicts or strings); its parameters become arguments of the job.
    Without it, a first parameter named `user` means each row of the table users, and one named `item` a list
    given at the start. concurrency: items in flight at once, or "auto",
    or "auto 5-200": found by what the API bears. rate: at most so many starts, "100/s", "60/m",
    "1000/h" or a number a second. max_attempts: tries allowed per item. timeout: seconds per try.
    idempotent=False: an item that was in flight when its worker died becomes `unknown` and is not run again
    by itself. retry_codes: HTTP codes worth another try. backoff, backoff_max: seconds; the wait before try n
    is random between 0 and min(backoff_max, backoff * 2**n). stamp: a column of users that gets the time, in
    unix seconds, when an item completes. doing: the word for running. stop_after: "5%" of the items failed,
    or a number of failures in a row, pauses the job. notify: who is told of its jobs that name nobody else,
    [{"channel": "email", "to": "ann@example.com", "on": ["failed"]}]. tags: words by which its jobs are
    found.

    Raises ValueError or TypeError for a signature or a setting that cannot be used.
    """

    def register(function: Callable[..., Any]) -> Task:
        made = made_of(function, settings)
        known = REGISTRY.get(made.name)
        if known and known.entry != made.entry:
            if is_built_in(known) == is_built_in(made):
                raise ValueError(f"Two tasks are named {made.name!r}: {known.entry} and {made.entry}.")
            if is_built_in(made):  # one's own goes before it
                return made
        same = [one for one in REGISTRY.values() if one.entry == made.entry and one.name != made.name]
        if same and same[0].function is not function:
            raise ValueError(
                f"{made.entry} would be two functions, of the tasks {same[0].name!r} and {made.name!r}: a job"
                " finds its own by this name, so give each another."
            )
        REGISTRY[made.name] = made
        return made

    return register(function) if function is not None else register


def made_of(function: Callable[..., Any], settings: TaskSettings) -> Task:
    """The task of a function, by its signature and the decorator's settings. Raises ValueError, TypeError."""
    demand_runs(function)
    entry = entry_of(function)
    how = checked_settings(function, settings)
    hints = hints_of(function)
    parameters = {parameter.name: parameter for parameter in parameters_of(function)}
    demand_names(function, parameters)
    clients = {n: hints[n] for n in parameters if _is_client(hints.get(n))}
    rest = [n for n in parameters if n not in clients]
    items = how.pop("items", None)
    if items is None and rest:
        items = ITEM_SOURCES.get(rest[0])
    item = rest.pop(0) if items is not None and rest else None
    if items is not None and item is None:
        raise TypeError(f"{function.__name__} has items but no parameter that takes one.")
    source = source_arguments(items, hints.get(item or "", Any)) if items else []
    own = [argument_of(parameters[n], hints) for n in rest]
    made = Task(
        function=function,
        name=how.pop("name", None) or function.__name__,
        entry=entry,
        items=items,
        item=item,
        item_type=hints.get(item, Any) if item else Any,
        clients=clients,
        arguments=[*source, *[a for a in own if a.name not in {s.name for s in source}]],
        source_arguments=[a.name for a in source],
        **how,
    )
    if isinstance(made.concurrency, str) and made.shape == "body":
        raise ValueError(f"{made.name}: concurrency auto is for tasks that are called per item.")
    demand_readable(made)
    return made


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function. Raises TypeError for one that names what is not there."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"{name}: its annotations cannot be read where it is run: {error}.") from None


def demand_names(function: Callable[..., Any], parameters: dict[str, inspect.Parameter]) -> None:
    """Raises TypeError for parameters that cannot be given by name: all but an item are."""
    if next(iter(parameters), "") in ("self", "cls") and "." in function.__qualname__:
        raise TypeError(
            f"{function.__qualname__} is a method, and a job has no object to call it on: define a function"
            " at the top level of a module."
        )
    nameless = [name for name, one in parameters.items() if one.kind is inspect.Parameter.POSITIONAL_ONLY]
    if nameless[1:]:
        raise TypeError(
            f"{function.__qualname__}: `{nameless[-1]}` can only be given by position, and a job gives it by"
            " name."
        )


def source_arguments(items: Callable[..., Iterable[Any]], item_type: Any) -> list[Argument]:
    """The arguments that an item source takes; of a list given at the start, the items are what the task
    says.
    """
    hints = hints_of(items)
    arguments = [argument_of(parameter, hints) for parameter in parameters_of(items)]
    if items is given_items and converts(item_type):
        return [Argument(argument.name, list[item_type]) for argument in arguments]
    return arguments


def demand_readable(made: Task) -> None:
    """Raises TypeError where an annotation is one that no value can be checked by, with the reason."""
    for argument in made.arguments:
        try:
            _ = argument.reader
        except Exception as error:
            raise TypeError(
                f"{made.name}: the annotation of `{argument.name}` cannot be used: {error}"
            ) from None
        if names_secret(argument.type) and not (argument.required or argument.default is None):
            raise TypeError(
                f"{made.name}: `{argument.name}` is a secret, and its default would be in the code: give it"
                " none, or None."
            )
        try:
            _ = None if argument.required else as_json(argument.default)
        except TypeError as error:
            raise TypeError(
                f"{made.name}: the default of `{argument.name}` cannot be used: {error}."
            ) from None
    if names_secret(made.item_type):
        raise TypeError(
            f"{made.name}: `{made.item}` is an item, which is shown, and cannot be a secret: make it an"
            " argument."
        )
    try:
        _ = made.item_reader
    except Exception as error:
        raise TypeError(f"{made.name}: the annotation of `{made.item}` cannot be used: {error}") from None


def checked_settings(function: Callable[..., Any], settings: TaskSettings) -> dict[str, Any]:
    """The decorator's settings as fields of Task. Raises ValueError, TypeError."""
    if unknown := settings.keys() - TaskSettings.__annotations__.keys():
        raise TypeError(f"{function.__name__}: task has no setting {min(unknown)!r}.")
    how: dict[str, Any] = dict(settings)
    if "rate" in how:
        how["pace"] = parse_rate(how.pop("rate"))
    if "retry_codes" in how:
        how["retry_codes"] = frozenset(how["retry_codes"])
    if "stop_after" in how:
        how["stop_after"] = parse_stop_rule(how["stop_after"])
    if "notify" in how:
        how["notify"] = notify.checked(how["notify"])
    if "tags" in how:
        how["tags"] = checked_tags(how["tags"])
    if "concurrency" in how:
        try:
            how["concurrency"] = parse_concurrency(how["concurrency"]) or 10
        except ValueError as error:
            raise ValueError(f"{function.__name__}: {error}") from None
    if how.get("max_attempts", 1) < 1:
        raise ValueError(f"{function.__name__}: max_attempts is at least 1.")
    if how.get("timeout") is not None and how["timeout"] <= 0:
        raise ValueError(f"{function.__name__}: timeout is more than 0 seconds, or None.")
    if how.get("backoff", 0) < 0 or how.get("backoff_max", 0) < 0:
        raise ValueError(f"{function.__name__}: backoff and backoff_max are not negative.")
    return how


def function_task(function: Callable[..., Any]) -> Task:
    """The task behind a plain function given to BackgroundTask: called once, as it is, and never again after
    a crash.

    Raises TypeError for what another process would not find, or what only makes something.
    """
    if isinstance(function, Task):
        return function
    if made := task_of(function):
        return made
    demand_runs(function)
    entry = entry_of(function)
    demand_itself(function)
    return plain_task(function, entry)


def plain_task(function: Callable[..., Any], entry: str) -> Task:
    name = getattr(function, "__name__", entry.rpartition(".")[2])
    return Task(function=function, name=name, entry=entry, idempotent=False)


def load(entry: str, name: str = "") -> Task:
    """The task behind 'module:function', importing its module; of several that call the function, the one of
    that name. Raises ImportError or AttributeError.
    """
    found = named(entry)
    made = REGISTRY.get(name)
    if made and made.function is getattr(found, "function", found):
        return made
    if isinstance(found, Task):
        return found
    return task_of(found) or plain_task(found, entry)


def task_of(function: Any) -> Task | None:
    """The registered task that calls this function, whatever it is named."""
    return next((made for made in list(REGISTRY.values()) if made.function is function), None)


def parse_rate(rate: str | float | None) -> float | None:
    """Items per second for "100/s", "60/m", "1000/h" or a number; None stays None. Raises ValueError."""
    if rate is None or rate == "":
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*([smh])(?:ec|in|our)?)?\s*", str(rate))
    per_second = float(match[1]) / {"s": 1, "m": 60, "h": 3600, None: 1}[match[2]] if match else 0.0
    if not SLOWEST <= per_second <= FASTEST:
        raise ValueError(f"{rate!r} is no rate: write it like 100/s, 60/m or 1000/h.")
    return per_second


def parse_stop_rule(rule: str | int | None) -> str | None:
    """A stop rule as it is stored: "5%" or "20"; None stays None. Raises ValueError."""
    if rule is None or rule == "":
        return None
    text = str(rule).strip().replace(" ", "")
    number = float(text.rstrip("%")) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?%|\d{1,9}", text) else 0.0
    if number <= 0 or (text.endswith("%") and number > 100):
        raise ValueError(
            f"{rule!r} is no stop rule: write a share like 5%, or a number of failures in a row like 20."
        )
    return text


def _is_client(hint: Any) -> bool:
    return hint is Mailer or (isinstance(hint, type) and hint.__module__.partition(".")[0] in CLIENT_MODULES)


# ---- what cannot be imported, in a sentence ----------------------------------------------------------------


def load_or_say(entry: str, name: str = "") -> Task | str:
    """The task behind 'module:function', or why it cannot be imported. What was put right since the last
    try is seen."""
    try:
        with LOOKING_ANEW:
            importlib.invalidate_caches()
        return load(entry, name)
    except BaseException as error:  # a module may do anything while it is imported, also ask for the end
        return f"{type(error).__name__}: {error}"


def import_modules(names: Iterable[str]) -> list[ImportError]:
    """Import the built-in tasks and these modules; returns an error, which says all in one sentence, for each
    that cannot be imported."""
    errors = []
    for name in ("rowcast.tasks.built_in", *names):
        if other := why_hidden(name):
            errors.append(ImportError(f"The tasks in {name!r} cannot be imported: {other}"))
            continue
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            hint = ". A module is named without its .py." if name.endswith(".py") else where_in(name, error)
            if isinstance(error, ImportError | AttributeError) and (other := why_hidden("", error)):
                hint += f". {other}"
            why = f"{type(error).__name__}: {error}{hint}"
            errors.append(ImportError(f"The tasks in {name!r} cannot be imported: {why}"))
            errors[-1].__cause__ = error
            continue
        for made in [one for one in REGISTRY.values() if one.entry.partition(":")[0] == name]:
            try:
                demand_itself(made.function)  # its name is now what it will be
            except TypeError as error:
                errors.append(ImportError(str(error)))
    return errors


def where_in(name: str, error: BaseException) -> str:
    """Where in a module an error came up; '' where it did not."""
    file = f"{name.rpartition('.')[2]}.py"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == file]
    return f" ({file}, line {lines[-1]})" if lines else ""
