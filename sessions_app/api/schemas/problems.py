"""The error shape, for the API's document. `sessions_app.api.problems` writes it."""

from pydantic import BaseModel, Field


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="As the client wrote it, inner ones with dots.", examples=["phone"])
    message: str = Field(examples=["a phone has 5 to 15 digits"])


class ProblemOut(BaseModel):
    """What went wrong, by RFC 9457."""

    type: str = Field(examples=["urn:waqueue:problem:session_not_found"])
    title: str = Field(examples=["There is no session of that name"])
    status: int = Field(examples=[404])
    detail: str = Field(description="For people.", examples=["there is no session named 'sales': create it first"])
    code: str = Field(description="Stable, for programs.", examples=["session_not_found"])
    errors: list[FieldError] | None = Field(None, description="Only for 422: what does not fit.")
