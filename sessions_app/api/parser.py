"""A body as strict JSON: what PostgreSQL cannot keep and what no other reader would understand is refused."""

import json
import math
from typing import Any, NoReturn

from django.http import HttpRequest
from ninja.parser import Parser

from sessions_app.api.problems import ApiError, Problem


class JsonParser(Parser):
    """Reads UTF-8 and standard JSON of type application/json, nothing else. Raises ApiError."""

    def parse_body(self, request: HttpRequest) -> Any:
        """Return the body of the request as Python values."""
        if request.content_type != "application/json":
            given = f"{request.content_type!r}" if request.content_type else "none"
            raise ApiError(
                Problem.of_status(415, f"The body has to be JSON, with Content-Type: application/json; it has {given}.")
            )
        return loads(request.body)


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
