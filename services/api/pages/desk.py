"""How a page is declared: its address, who may see it, and what the navigation says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from flask import Blueprint, Flask

from services.api.routing import Access, Operation, Size
from services.store import Role

# Somebody who is signed in; the page says in which roles.
PEOPLE = Access(open_to="people")
# Whoever has the address: signing in, links that were given away.
VISITORS = Access(open_to="visitors")

READERS: frozenset[Role] = frozenset({"recruiter", "interviewer", "admin"})
RECRUITERS: frozenset[Role] = frozenset({"recruiter", "admin"})
ADMINS: frozenset[Role] = frozenset({"admin"})

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """A link in the navigation, or among the links of a submission (its endpoint then takes `submission_id`)."""

    label: str
    endpoint: str
    roles: frozenset[Role]
    covers: tuple[str, ...] = ()  # other endpoints, or their beginnings, that belong under it


class Desk(Blueprint):
    """A group of pages with their templates, which stand in a folder `templates` beside the module.

    Another room adds pages by making a Desk and naming it in `rooms`. Its entries appear in the navigation and
    on each submission's page; its views find who is signed in by `gate.person()`.
    """

    def __init__(
        self, name: str, module: str, *, navigation: Iterable[Entry] = (), beside_submission: Iterable[Entry] = ()
    ) -> None:
        super().__init__(name, module, template_folder="templates")
        self.navigation = tuple(navigation)
        self.beside_submission = tuple(beside_submission)
        self.operations: dict[str, Operation] = {}
        self.roles: dict[str, frozenset[Role]] = {}

    def page(
        self,
        method: Literal["GET", "POST"],
        rule: str,
        *,
        roles: frozenset[Role] | None,
        size: Size = "json",
    ) -> Callable[[View], View]:
        """Declare a page for people in one of `roles`; None is for whoever has the address."""

        def declare(view: View) -> View:
            endpoint = f"{self.name}.{view.__name__}"
            self.operations[endpoint] = Operation(VISITORS if roles is None else PEOPLE, size)
            if roles is not None:
                self.roles[endpoint] = roles
            self.add_url_rule(rule, view.__name__, view, methods=[method])
            return view

        return declare


def desks(app: Flask) -> list[Desk]:
    """All groups of pages of `app`."""
    return [one for one in app.blueprints.values() if isinstance(one, Desk)]


def roles_of(app: Flask, endpoint: str | None) -> frozenset[Role] | None:
    """Who may see a page; None for whoever has the address."""
    return next((desk.roles[endpoint] for desk in desks(app) if endpoint in desk.roles), None)


def operations_of(app: Flask) -> dict[str, Operation]:
    """What the pipeline has to know of every page."""
    return {name: operation for desk in desks(app) for name, operation in desk.operations.items()}
