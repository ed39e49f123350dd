"""`assay users`: who may sign in to the dashboard."""

from __future__ import annotations

import secrets
import sys

import click

from services.commands.base import Backend, Trouble, examples, plain_table, print_json, stdout
from services.commands.service import known_store
from services.render import inert
from services.store import ROLES, Conflict, NotFound, Role, Store, User
from services.store.events import iso

_ACTOR = "command line"
_PASSWORD_BYTES = 12


@click.group()
def users() -> None:
    """Let people in to the dashboard, and out again."""


@users.command(
    epilog=examples(
        "assay users create ada@example.org --role admin --name 'Ada Lovelace'",
        "assay users create rita@example.org --role recruiter --password-stdin < password",
    )
)
@click.argument("email")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What the person may do.")
@click.option("--name", default="", help="What notes and decisions are signed with. Default: the address.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin instead of making one.")
@click.pass_obj
def create(backend: Backend, email: str, role: Role, name: str, password_stdin: bool) -> None:
    """Make a user and print a first password, this once: only a hash is kept.

    The password goes to stdout and all else to stderr. Exit code: 0, 2 for an address or password that will not
    do or is taken, 4 where the database does not answer.
    """
    password = _password_from_stdin() if password_stdin else secrets.token_urlsafe(_PASSWORD_BYTES)
    with known_store(backend.settings) as store:
        try:
            user = store.create_user(email, name, role, password, actor=_ACTOR)
        except (ValueError, Conflict) as error:
            raise Trouble(str(error), "`assay users list` shows who there is.") from error
    click.echo(f"{user.id}: {user.email} signs in as {user.role}", err=True)
    if not password_stdin:
        click.echo(password)


def _password_from_stdin() -> str:
    """Its first line. Raises Trouble."""
    given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        raise Trouble("there is no password on stdin", "Give one, or leave out --password-stdin to have one made.")
    return given


@users.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.pass_obj
def list_users(backend: Backend, as_json: bool) -> None:
    """List all users, disabled ones too."""
    with known_store(backend.settings) as store:
        found, now_us = store.list_users(), store.now_us()
    if as_json:
        print_json([_as_json(user, now_us) for user in found])
        return
    table = plain_table("user", "e-mail", "name", "role", "state", "last signed in")
    for user in found:
        last = iso(user.last_sign_in_us) if user.last_sign_in_us else "never"
        table.add_row(user.id, inert(user.email, 60), inert(user.name, 40), user.role, _state(user, now_us), last)
    stdout().print(table)


@users.command()
@click.argument("email")
@click.pass_obj
def disable(backend: Backend, email: str) -> None:
    """Let a user in no more; their sessions end at once, what they wrote stays."""
    with known_store(backend.settings) as store:
        try:
            user = store.disable_user(_find(store, email).id, actor=_ACTOR)
        except Conflict as error:
            raise Trouble(str(error), "Make another one first: `assay users create … --role admin`.") from error
    click.echo(f"{user.email} is disabled", err=True)


@users.command()
@click.argument("email")
@click.pass_obj
def enable(backend: Backend, email: str) -> None:
    """Let a disabled or locked user in again."""
    with known_store(backend.settings) as store:
        user = store.enable_user(_find(store, email).id, actor=_ACTOR)
    click.echo(f"{user.email} may sign in", err=True)


@users.command()
@click.argument("email")
@click.pass_obj
def password(backend: Backend, email: str) -> None:
    """Give a user a new password and print it, this once; all their sessions end."""
    made = secrets.token_urlsafe(_PASSWORD_BYTES)
    with known_store(backend.settings) as store:
        store.set_password(_find(store, email).id, made, actor=_ACTOR)
    click.echo(made)


def _find(store: Store, email: str) -> User:
    """Raises Trouble."""
    user = store.user_by_email(email)
    if user is None:
        raise Trouble(f"there is no user {inert(email, 60)}", "`assay users list` shows them.") from NotFound(email)
    return user


def _state(user: User, now_us: int) -> str:
    if user.disabled_us is not None:
        return "disabled"
    return "locked" if (user.locked_until_us or 0) > now_us else "active"


def _as_json(user: User, now_us: int) -> dict[str, object]:
    return {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "role": user.role,
        "state": _state(user, now_us),
        "created": iso(user.created_us),
        "last_sign_in": iso(user.last_sign_in_us) if user.last_sign_in_us else None,
    }
