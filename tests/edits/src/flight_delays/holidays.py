"""Days on which more people fly than usual. The user's own module."""

import datetime

THANKSGIVING = datetime.date(2013, 11, 28)


def is_rush(day: datetime.date) -> bool:
    return abs((day - THANKSGIVING).days) <= 3
