"""Times as all of the runtime has them: in UTC, without a zone."""

from datetime import UTC, datetime, timedelta


def moment(text: str) -> datetime:
    """Return a time in UTC without a zone."""
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


def days(span: timedelta) -> float:
    """Return SPAN in days."""
    return span.total_seconds() / 86400
