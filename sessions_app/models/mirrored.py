"""An open message as the mirror needs it: what its job says, without the rest of its row."""

import uuid
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from sessions_app.database import kept_cursor
from sessions_app.models.message import Message


@dataclass(slots=True)
class Mirrored:
    """Its fields are columns of a message. A line of very many is read so: as models, it takes ten times as long."""

    id: uuid.UUID
    session_id: int
    recipient: str
    type: str
    text: str
    media_url: str
    filename: str
    caption: str
    template: dict[str, Any] | None
    client_ref: str
    priority: int
    seq: int
    attempts: int
    scheduled_at: datetime | None
    expires_at: datetime | None
    created_at: datetime
    queued_at: datetime | None

    content = Message.content
    terms = Message.terms

    @property
    def pk(self) -> uuid.UUID:
        """Its id, as of a model."""
        return self.id


_COLUMNS = tuple(column.name for column in fields(Mirrored))


def read_mirrored(messages: QuerySet[Message]) -> list[Mirrored]:
    """These messages, in their order. Raises the errors of django.db."""
    statement, values = messages.values_list(*_COLUMNS).query.sql_with_params()
    with kept_cursor() as cursor:
        # A plan that is kept does not know the statuses, and so none of the indexes of what is open.
        found = cursor.execute(statement, values, prepare=False, binary=True)
        return [Mirrored(*row) for row in found.fetchall()]
