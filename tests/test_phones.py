"""Recipients are accepted as people type them and kept in E.164 where they have a country code."""

import pytest
from pytest_django import Settings

from sessions_app.exceptions import InvalidInput
from sessions_app.services.phones import normalise


@pytest.mark.parametrize(
    "typed",
    [
        "+51930246633",
        "+51 930 246 633",
        "+51-930-246-633",
        "+51 (930) 246.633",
        "  +51930246633\n",
        "0051 930 246 633",
        "51930246633",
        "+51\u00a0930\u2011246\u2013633",
        "+51/930/246/633",
        "\u202a+51 930 246 633\u202c",
    ],
)
def test_a_phone_is_accepted_as_people_type_and_paste_it(typed: str) -> None:
    assert normalise(typed) == "+51930246633"


@pytest.mark.parametrize("typed", ["1234567890", "12345", "123-456-7890"])
def test_a_number_of_no_country_is_kept_as_its_digits(typed: str) -> None:
    assert normalise(typed) == typed.replace("-", "")


def test_a_mexican_number_keeps_the_one_by_which_whatsapp_knows_it() -> None:
    assert normalise("+5215512345678") == "+5215512345678"
    assert normalise("+52 1 55 1234 5678") == "+5215512345678"


@pytest.mark.parametrize(
    ("region", "typed", "kept"),
    [
        ("PE", "930 246 633", "+51930246633"),
        ("PE", "51930246633", "+51930246633"),
        ("PE", "+34600111222", "+34600111222"),
        ("DE", "0151 23456789", "+4915123456789"),
        ("PE", "12345678901234", "12345678901234"),
    ],
)
def test_the_default_region_reads_what_has_no_country_code(
    settings: Settings, region: str, typed: str, kept: str
) -> None:
    settings.WAQUEUE_DEFAULT_REGION = region
    assert normalise(typed) == kept


@pytest.mark.parametrize("digits", ["12345", "123456789012345", "+12345", "+123456789012345"])
def test_five_to_fifteen_digits_are_enough(digits: str) -> None:
    assert normalise(digits) == digits


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "   ",
        "+",
        "00",
        "1234",
        "+1234",
        "001234",
        "1234567890123456",
        "+1234567890123456",
        "++51930246633",
        "51+930246633",
        "51930246633x12",
        "tel:+51930246633",
        "51930246633\x00",
        "51,930,246,633",
    ],
)
def test_anything_else_is_refused(typed: str) -> None:
    with pytest.raises(InvalidInput, match="5 to 15 digits"):
        normalise(typed)


@pytest.mark.parametrize("typed", ["５１９３０２４６６３３", "٥١٩٣٠٢٤٦٦٣٣", "+५१९३०२४६६३३", "519302466³³"])
def test_digits_of_other_scripts_are_refused(typed: str) -> None:
    with pytest.raises(InvalidInput):
        normalise(typed)


@pytest.mark.parametrize("field", ["to", "phone"])
def test_the_error_names_the_field(field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        normalise("12", field=field)
    assert [error["field"] for error in caught.value.errors] == [field]


def test_the_field_is_called_to_unless_said_otherwise() -> None:
    with pytest.raises(InvalidInput) as caught:
        normalise("12")
    assert caught.value.errors[0]["field"] == "to"


def test_what_was_normalised_stays_as_it_is() -> None:
    for typed in ("+51 930 246 633", "51930246633", "1234567890"):
        assert normalise(normalise(typed)) == normalise(typed)
