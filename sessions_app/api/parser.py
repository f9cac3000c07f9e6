"""A body as strict JSON: what PostgreSQL cannot keep and what no other reader would understand is refused."""

import json
import math
from typing import Any, NoReturn

from django.http import HttpRequest
from ninja.parser import Parser

from sessions_app.api.problems import ApiError, Problem

# How much of a body that is too large is read and thrown away, in bodies of the largest size.
_DISCARDED_FACTOR = 16
_DISCARDED_AT_ONCE = 64 * 1024


class JsonParser(Parser):
    """Reads UTF-8 and standard JSON of type application/json, nothing else. Raises ApiError."""

    def parse_body(self, request: HttpRequest) -> Any:
        """Return the body of the request as Python values."""
        _refuse_other_types(request)
        return loads(request.body)


def parse_large(request: HttpRequest, most: int, setting: str) -> Any:
    """Return what a body of up to `most` bytes says, which `setting` allows where others may have less.

    For a view that reads its body by itself, once the key was checked. Raises ApiError.
    """
    try:
        size = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        size = 0
    if not size:
        return {}
    _refuse_other_types(request)
    if size > most:
        # A client that is still sending when the connection closes never sees why.
        for _ in range(most * _DISCARDED_FACTOR // _DISCARDED_AT_ONCE):
            if not request.read(_DISCARDED_AT_ONCE):
                break
        raise ApiError(
            Problem.of_status(
                413, f"The body takes {size} bytes; {most} are the most here ({setting}): send it in parts."
            )
        )
    return loads(request.read())


def _refuse_other_types(request: HttpRequest) -> None:
    if request.content_type != "application/json":
        given = f"{request.content_type!r}" if request.content_type else "none"
        raise ApiError(
            Problem.of_status(415, f"The body has to be JSON, with Content-Type: application/json; it has {given}.")
        )


def loads(body: bytes) -> Any:
    """Return the values in `body`. Raises ApiError that says where it is broken."""
    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise _broken(f"{error.msg}, line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise _broken(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise _broken("it is nested too deeply") from None
    except ValueError as error:
        raise _broken(str(error).partition(";")[0]) from None


def _broken(why: str) -> ApiError:
    return ApiError(Problem.of_status(400, f"The body is not JSON: {why}.", code="invalid_json"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number
