"""training.roles"""

from ..core import settings


class Role(settings.Settings, frozen=True):
    people: list[str]
    may: list[str]


class Roles(settings.Settings, frozen=True):
    roles: dict[str, Role]
