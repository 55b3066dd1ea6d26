"""What can go wrong, by who can mend it; the message is one line for people, the type decides.

ProjectError
  UsageError      the call's words are off
  Unmet           something must hold first: nothing was tried
    Busy          another process is at it
  Refused         checked, and it does not hold
"""


class ProjectError(Exception):
    """Something a person can mend; the message says what was wrong and what to do."""

    exit_code = 1


class UsageError(ProjectError):
    """The call's words are off."""

    exit_code = 2


class Unmet(ProjectError):
    """Something must hold first and does not, such as a commit that is missing: nothing was tried."""


class Busy(Unmet):
    """Another process is at it: wait until it ends."""


class Refused(ProjectError):
    """Checked, and it does not hold: bad data, a model below its criteria."""

    exit_code = 3
