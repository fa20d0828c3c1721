"""The base of records that are JSON in a file: named fields, a schema version, and keys of other versions.

The keys in the file are the names of the fields. Fields that an older version did not write read as their defaults. A
newer version is refused. Keys that this version does not know are kept in `extra` and written again, so that a copy of
a record (a twin's, a checkpoint's) is complete.
"""

import functools
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from near.common.errors import UserError
from near.common.files import read_json, write_json

VERSION = "schema_version"  # its default is the version that is written; a file without one is of version 0


class ForeignRecord(UserError):
    """A file of the same name that another program wrote: it lacks a key that every version of near writes."""


def container(kind: type, each: bool = False, only_if_set: bool = False, **default: Any) -> Any:
    """A field whose JSON value is an object or a list, or null.

    Args:
        kind: dict, list, or the class of a nested record.
        each: the value is an object of such records, by name.
        only_if_set: it is left out of the file while it is None.
    """
    return field(metadata={"kind": kind, "each": each, "only_if_set": only_if_set}, **default)


def only_if_set() -> Any:
    """A field that is left out of the file while it is None."""
    return field(default=None, metadata={"only_if_set": True})


@dataclass(frozen=True, kw_only=True)
class JsonRecord:
    """A part of a file. extra: keys that this version does not know."""

    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Any, source: object) -> Self:
        """Read a record.

        Args:
            values: as `to_json` returns it, also of an older version.
            source: the file, for errors.

        Raises:
            UserError: `values` is no object, a part has another type, or the schema version is newer.
            ForeignRecord: a required key is missing.
        """
        _check_kind(values, dict, cls.__name__, source)
        rest, known = dict(values), {}
        for one in fields(cls):
            if one.name == VERSION:
                known[VERSION] = _checked_version(rest.pop(VERSION, 0), one.default, source)
            elif one.name != "extra" and one.name in rest:
                known[one.name] = _parsed(rest.pop(one.name), one, source)
            elif one.default is MISSING and one.default_factory is MISSING:
                raise ForeignRecord(f"{source} was not written by near (it has no {one.name})")
        return cls(**known, extra=rest)

    def to_json(self) -> dict[str, Any]:
        """The values for JSON: fields of the class first, then those of its bases, then `extra`."""
        values = {}
        for name, optional in _written(type(self)):
            value = getattr(self, name)
            if value is not None or not optional:
                values[name] = _plain(value)
        return values | {name: value for name, value in self.extra.items() if name not in values}

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a JSON file. Raises what from_json raises, and OSError if the file is missing."""
        return cls.from_json(read_json(path), path)

    def write(self, path: Path) -> None:
        write_json(path, self.to_json())


@functools.cache
def _written(cls: type[JsonRecord]) -> list[tuple[str, bool]]:
    """The fields of a class in the order of its file, and whether they are written only if they are set."""
    optional = {one.name: bool(one.metadata.get("only_if_set")) for one in fields(cls)}
    names = [name for base in cls.__mro__ for name in vars(base).get("__annotations__", ()) if name != "extra"]
    return [(name, optional[name]) for name in names]


def _parsed(value: Any, one: Any, source: object) -> Any:
    kind = one.metadata.get("kind")
    if kind is None:
        return value
    if value is None:
        return one.default_factory() if one.default is MISSING else one.default
    if not issubclass(kind, JsonRecord):
        _check_kind(value, kind, one.name, source)
        return value
    _check_kind(value, dict, one.name, source)
    if not one.metadata["each"]:
        return kind.from_json(value, source)
    return {name: kind.from_json(part, source) for name, part in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value


def _check_kind(value: Any, kind: type, name: str, source: object) -> None:
    if not isinstance(value, kind):
        raise UserError(
            f"{source} is damaged ({name} is a {type(value).__name__}, not a {kind.__name__}); delete it and run again"
        )


def _checked_version(version: Any, newest: int, source: object) -> int:
    """`version`; raises UserError if it is newer than this version of near reads."""
    if type(version) is not int or version < 0:
        raise UserError(f"{source} is damaged ({VERSION}={version!r} is not a whole number); delete it and run again")
    if version > newest:
        raise UserError(
            f"{source} has {VERSION}={version}, and this near reads versions up to {newest}; update near "
            "(pip install -U near)"
        )
    return version
