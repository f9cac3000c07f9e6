"""Finder: one row by what every request knows of it, without the ORM's work of writing the same statement again."""

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, Generic, TypeVar

from django.db import connection, models

from sessions_app.database import kept_cursor

M = TypeVar("M", bound=models.Model)


class Finder(Generic[M]):
    """Finds the row of a model that fits `where`, a condition in SQL on `found` with a %s for each value.

    `beside` names its one-to-one relation whose row is read with it, as `select_related` does.
    """

    def __init__(self, model: type[M], where: str, *, beside: str = "") -> None:
        self._model = model
        self._where = where
        self._beside = beside

    def __call__(self, *values: Any) -> M | None:
        """The row, or None. Raises the errors of django.db."""
        with kept_cursor() as cursor:
            row = cursor.execute(self._statement, values, prepare=True, binary=True).fetchone()
        if row is None:
            return None
        width = len(self._model._meta.concrete_fields)
        found = _built(self._model, row[:width])
        if self._beside:
            relation: Any = self._model._meta.get_field(self._beside)
            related = _built(relation.related_model, row[width:])
            found._state.fields_cache[self._beside] = related
            related._state.fields_cache[relation.field.name] = found
        return found

    @cached_property
    def _statement(self) -> str:
        columns = _columns(self._model, "found")
        source = f'"{self._model._meta.db_table}" found'
        if self._beside:
            relation: Any = self._model._meta.get_field(self._beside)
            columns += _columns(relation.related_model, "beside")
            source += f' JOIN "{relation.related_model._meta.db_table}" beside'
            source += f' ON beside."{relation.field.column}" = found."{relation.field.target_field.column}"'
        return f"SELECT {', '.join(columns)} FROM {source} WHERE {self._where} LIMIT 1"  # noqa: S608 (ours throughout)


def _columns(model: type[models.Model], alias: str) -> list[str]:
    return [f'{alias}."{field.column}"' for field in model._meta.concrete_fields]


def _built(model: type[M], row: Sequence[Any]) -> M:
    """An instance of what was read, as the ORM makes it."""
    names, converters = _fields(model)
    values = list(row)
    for at, convert in converters:
        values[at] = convert(values[at], None, connection)
    return model.from_db(connection.alias, names, values)


@cache
def _fields(model: type[models.Model]) -> tuple[list[str], list[tuple[int, Callable[..., Any]]]]:
    """The attributes of a model, and what makes values out of columns; JSON that comes as bytes is read already."""
    fields = model._meta.concrete_fields
    converters = [
        (at, convert)
        for at, field in enumerate(fields)
        if not isinstance(field, models.JSONField)
        for convert in field.get_db_converters(connection)
    ]
    return [field.attname for field in fields], converters
