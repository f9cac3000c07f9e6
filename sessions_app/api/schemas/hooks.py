"""What engines are answered."""

from pydantic import BaseModel, Field


class Received(BaseModel):
    """It was believed."""

    receipts: int = Field(description="How many were new.", examples=[1])
