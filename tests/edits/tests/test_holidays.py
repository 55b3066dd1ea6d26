import datetime

from flight_delays.holidays import is_rush


def test_the_day_before_thanksgiving_is_a_rush() -> None:
    assert is_rush(datetime.date(2013, 11, 27))
