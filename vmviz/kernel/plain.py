"""Value classes for what every start of the program needs: fields as attrs has them, and no code made for them.

What attrs writes for a class is compiled each time the program starts, a class of ten fields in half a millisecond,
and attrs itself takes as long as twenty of them; for the sixty classes behind a first frame that is a tenth of the
wait.  Here the methods are written once for all.  A class that is made or compared all the time had better have
its own.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
_Key = Callable[[Any], tuple[object, ...]]
_NOTHING: Any = object()


class Field:
    """What `field` says of a field."""

    __slots__ = ("default", "eq", "factory", "init", "repr")

    def __init__(
        self, default: Any, factory: Callable[[], Any] | None, init: bool, eq: bool, repr: bool
    ) -> None:
        self.default = default
        self.factory = factory
        self.init = init
        self.eq = eq
        self.repr = repr


def field(
    *,
    default: Any = _NOTHING,
    factory: Callable[[], Any] | None = None,
    init: bool = True,
    eq: bool = True,
    repr: bool = True,
) -> Any:
    """A field with a ``default`` that ``factory`` makes, that `__post_init__` sets (``init`` false), or that does not
    tell values apart (``eq`` false) or is not printed (``repr`` false).
    """
    return Field(default, factory, init, eq, repr)


class Made(type):
    """Makes value classes: the annotated names become slots, what they are set to becomes their defaults."""

    _fields: dict[str, Field]
    _takes: tuple[tuple[str, Callable[[Any, Any], None], Field], ...]
    _kw_only: bool
    _frozen: bool

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        space: dict[str, Any],
        *,
        kw_only: bool = False,
        frozen: bool = True,
        eq: bool = True,
    ) -> Made:
        """The class; without ``eq`` each value is equal to itself alone."""
        if not eq:
            space["__eq__"], space["__hash__"] = object.__eq__, object.__hash__
        own: dict[str, Field] = {}
        for word, kind in space.get("__annotations__", {}).items():
            if not str(kind).startswith("ClassVar"):
                given = space.pop(word, _NOTHING)
                own[word] = given if isinstance(given, Field) else Field(given, None, True, True, True)
        space["__slots__"] = (*own, *space.get("__slots__", ()))
        fields = {**next((base._fields for base in bases if isinstance(base, Made)), {}), **own}
        taken = [(word, told) for word, told in fields.items() if told.init]
        space["__match_args__"] = () if kw_only else tuple(word for word, _ in taken)
        cls = super().__new__(mcs, name, bases, space)
        cls._fields = fields
        cls._takes = tuple((word, getattr(cls, word).__set__, told) for word, told in taken)
        cls._kw_only, cls._frozen = kw_only, frozen
        return cls

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any], **how: Any) -> None:
        super().__init__(name, bases, space)

    @property
    def __attrs_attrs__(cls) -> Any:
        """For attrs.fields, attrs.evolve and attrs.asdict, which take these classes for their own."""
        found = _attributes.get(cls)
        if found is None:
            import attrs  # noqa: PLC0415

            made = {
                word: attrs.field(
                    default=attrs.NOTHING if told.default is _NOTHING else told.default,
                    init=told.init,
                    eq=told.eq,
                    repr=told.repr,
                    alias=word,
                    kw_only=True,
                )
                for word, told in cls._fields.items()
            }
            found = _attributes[cls] = attrs.fields(attrs.make_class(cls.__name__, made))
        return found


_attributes: dict[Made, Any] = {}
_keys: dict[type, _Key] = {}


def _key(cls: Any) -> _Key:
    """What tells the values of a class apart."""
    found = _keys.get(cls)
    if found is None:
        found = _keys[cls] = attrgetter("__class__", *(w for w, told in cls._fields.items() if told.eq))
    return found


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Plain(metaclass=Made):
    """The base of these classes, whose values do not change once they are made (but with ``frozen=False``).

    A field that is not given and has no default is an error; ``__post_init__``, where there is one, sets those with
    ``init=False``, by `object.__setattr__`.

    >>> class Point(Plain):
    ...     x: int
    ...     y: int = 0
    ...     name: str = field(default="", eq=False, repr=False)
    >>> Point(1), Point(1, name="a") == Point(1), Point(1) == Point(2), len({Point(1), Point(1)})
    (Point(x=1, y=0), True, False, 1)
    >>> Point(y=2)
    Traceback (most recent call last):
        ...
    TypeError: Point() wants x
    >>> evolve(Point(1, 2), y=3)
    Point(x=1, y=3)
    """

    __slots__ = ("__weakref__",)

    def __init__(self, *args: Any, **given: Any) -> None:
        cls: Any = self.__class__
        takes = cls._takes
        if args:
            if len(args) > len(takes) or cls._kw_only:
                raise TypeError(f"{cls.__name__}() takes {0 if cls._kw_only else len(takes)} arguments")
            for (_, put, _), value in zip(takes, args, strict=False):
                put(self, value)
            takes = takes[len(args) :]
        for word, put, told in takes:
            if word in given:
                value = given.pop(word)
            elif told.factory is not None:
                value = told.factory()
            else:
                value = told.default
                if value is _NOTHING:
                    raise TypeError(f"{cls.__name__}() wants {word}")
            put(self, value)
        if given:
            raise TypeError(f"{cls.__name__}() has no field {next(iter(given))!r} that is not given yet")
        self.__post_init__()

    def __post_init__(self) -> None:
        """Set what follows from the other fields."""

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__class__._frozen:
            raise AttributeError(f"a {self.__class__.__name__} does not change: {name!r} cannot be set")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {self.__class__.__name__} does not lose {name!r}")

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        """For copy and pickle, which set slot by slot."""
        for name, value in state[1].items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        cls = self.__class__
        if cls is not other.__class__:
            return NotImplemented
        key = _key(cls)
        return key(self) == key(other)

    def __hash__(self) -> int:
        return hash(_key(self.__class__)(self))

    def __repr__(self) -> str:
        cls = self.__class__
        names = [word for word, told in cls._fields.items() if told.repr]
        return f"{cls.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def evolve(value: T, **changes: Any) -> T:
    """A copy of a value in which some fields differ."""
    cls: Any = value.__class__
    return cls(**{**{word: getattr(value, word) for word, _, _ in cls._takes}, **changes})  # type: ignore[no-any-return]
