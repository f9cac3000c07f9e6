"""What a load balancer is told."""

from typing import Literal

from pydantic import BaseModel, Field


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Whether messages are accepted, which this answer says, and whether they are sent."""

    status: Literal["ok", "degraded"]
    reasons: list[str] | None = Field(
        None, description="Only when degraded: why messages wait.", examples=[["no worker is alive: messages wait"]]
    )
