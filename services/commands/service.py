"""`assay db`, `assay keys`, `assay audit`: what an operator does to the store."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import click
from pydantic import TypeAdapter, ValidationError

from services.commands.base import INFRASTRUCTURE, WANTING, Backend, Trouble, examples, plain_table, print_json, stdout
from services.commands.work import open_store
from services.render import inert
from services.settings import Settings
from services.store import SCOPES, ApiKey, NotFound, Store, StoreUnavailable
from services.store.events import iso

_DAY_US = 86_400_000_000


@contextlib.contextmanager
def _known_troubles() -> Iterator[None]:
    """The database's troubles in two lines. Raises Trouble."""
    try:
        yield
    except StoreUnavailable as error:
        advice = "Check ASSAY_DATABASE_URL, or run `assay db upgrade`."
        raise Trouble(f"the database is not ready: {error}", advice, INFRASTRUCTURE) from error
    except ValueError as error:
        raise Trouble(str(error), "Check ASSAY_DATABASE_URL.") from error


@contextlib.contextmanager
def known_store(settings: Settings) -> Iterator[Store]:
    """The operator's store, migrated and closed at the end; its troubles in two lines. Raises Trouble."""
    with _known_troubles(), contextlib.closing(open_store(settings)) as store:
        store.ping()
        yield store


# assay db ---------------------------------------------------------------------------------------


@click.group()
def db() -> None:
    """Move the database's schema up and down."""


@db.command(epilog=examples("assay db upgrade", "assay db upgrade 0001"))
@click.argument("revision", default="head")
@click.pass_obj
def upgrade(backend: Backend, revision: str) -> None:
    """Bring the schema up to REVISION, by default to what this version needs.

    Nothing is done where it is there already, so it may run at each start, from several hosts at once.
    Exit code: 0, 2 for an unknown revision, 4 where the database does not answer.
    """
    _move(backend.settings.store_url(), revision, up=True)


@db.command(epilog=examples("assay db downgrade 0001", "assay db downgrade base --yes"))
@click.argument("revision")
@click.confirmation_option(prompt="This removes tables and what is in them. Go on?")
@click.pass_obj
def downgrade(backend: Backend, revision: str) -> None:
    """Take the schema down to REVISION; "base" removes everything.

    Exit code: 0, 2 for an unknown revision, 4 where the database does not answer.
    """
    _move(backend.settings.store_url(), revision, up=False)


def _move(url: str, revision: str, *, up: bool) -> None:
    with _known_troubles():
        try:
            (Store.upgrade if up else Store.downgrade)(url, revision)
        except LookupError as error:
            raise Trouble(str(error), "`assay db current` shows where the schema is.") from error
        click.echo(Store.current(url) or "base")


@db.command()
@click.pass_obj
def current(backend: Backend) -> None:
    """Print the schema's revision.

    Exit code: 0, 1 where it is not the one that this version needs, 4 where the database does not answer.
    """
    url = backend.settings.store_url()
    with _known_troubles():
        found = Store.current(url)
        click.echo(found or "base")
    if found != Store.needed_revision():
        raise Trouble(f"this version needs {Store.needed_revision()}", "Run `assay db upgrade`.", WANTING)


# assay keys -------------------------------------------------------------------------------------


@click.group()
def keys() -> None:
    """Make and revoke API keys."""


@keys.command(
    epilog=examples(
        "assay keys create careers-site --scope submit",
        "assay keys create dashboards --scope read --expires-days 90",
    )
)
@click.argument("name")
@click.option(
    "--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="What it may do; repeatable."
)
@click.option("--expires-days", type=click.IntRange(1, 36_500), metavar="N", help="Days until it ends. Default: never.")
@click.option("--json", "as_json", is_flag=True, help="Print key and secret as JSON.")
@click.pass_obj
def create(backend: Backend, name: str, scopes: tuple[str, ...], expires_days: int | None, as_json: bool) -> None:
    """Make a key and print its secret, this once: only a hash is kept.

    The secret goes to stdout and all else to stderr, so it can go to where it is needed unseen.
    Exit code: 0, 2 for a name that will not do, 4 where the database does not answer.
    """
    _require_name(name)
    with known_store(backend.settings) as store:
        chosen = [scope for scope in SCOPES if scope in scopes]
        expires_us = None if expires_days is None else store.now_us() + expires_days * _DAY_US
        key, secret = store.create_key(name, chosen, expires_us, actor="command line")
    if as_json:
        print_json(_as_json(key) | {"secret": secret})
        return
    until = f", until {iso(key.expires_us)}" if key.expires_us else ""
    click.echo(f"{key.id}: {inert(key.name, 80)} may {', '.join(key.scopes)}{until}", err=True)
    click.echo(secret)


def _require_name(name: str) -> None:
    """Take what the API takes. Raises Trouble."""
    from services.api.models import Words  # brings all of Flask, which no other command here needs

    try:
        TypeAdapter(Words).validate_python(name)
    except ValidationError as error:
        advice = "A name has 1 to 200 characters and no control characters."
        raise Trouble(f"the name {inert(name, 80)!r} will not do", advice) from error


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.pass_obj
def list_keys(backend: Backend, as_json: bool) -> None:
    """List all keys, revoked and expired ones too. Their secrets cannot be shown."""
    with known_store(backend.settings) as store:
        found, now_us = store.list_keys(), store.now_us()
    if as_json:
        print_json([_as_json(key) for key in found])
        return
    table = plain_table("key", "name", "starts with", "scopes", "state", "last used")
    table.columns[0].no_wrap = True  # an id is there to be copied
    for key in found:
        last = iso(key.last_used_us) if key.last_used_us else "never"
        table.add_row(
            key.id, inert(key.name, 40), f"assay_{key.prefix}", ", ".join(key.scopes), _state(key, now_us), last
        )
    stdout().print(table)


@keys.command()
@click.argument("key_id", metavar="KEY")
@click.pass_obj
def revoke(backend: Backend, key_id: str) -> None:
    """End a key for good. KEY is its id as `assay keys list` shows it."""
    with known_store(backend.settings) as store:
        try:
            key = store.revoke_key(key_id, actor="command line")
        except NotFound as error:
            raise Trouble(str(error), "`assay keys list` shows them.") from error
    click.echo(f"{key.id} is revoked", err=True)


def _state(key: ApiKey, now_us: int) -> str:
    if key.revoked_us is not None:
        return "revoked"
    return "expired" if key.expires_us is not None and key.expires_us <= now_us else "live"


def _as_json(key: ApiKey) -> dict[str, object]:
    shown: dict[str, object] = {"id": key.id, "name": key.name, "prefix": key.prefix, "scopes": list(key.scopes)}
    for name in ("created", "expires", "revoked", "last_used"):
        at_us: int | None = getattr(key, f"{name}_us")
        shown[name] = None if at_us is None else iso(at_us)
    return shown


# assay audit ------------------------------------------------------------------------------------


@click.group()
def audit() -> None:
    """See who did what, and that nobody rewrote it."""


@audit.command(epilog=examples("assay audit verify", "assay audit verify --head 3f0c…"))
@click.option("--head", metavar="HASH", help="A hash that an earlier call printed and that was kept elsewhere.")
@click.pass_obj
def verify(backend: Backend, head: str | None) -> None:
    """Check that no line of the audit log was changed, removed or slipped in.

    Prints the hash of the newest line. Keep it where the database's administrators cannot write: with --head
    the check also finds a log that was written anew as a whole.
    Exit code: 0, 1 where the log is not what was written, 2 where HASH is none, 4 where the database does not
    answer.
    """
    if head is not None and not re.fullmatch("[0-9a-f]{64}", head):
        raise Trouble(f"{inert(head, 80)!r} is no hash", "Give the 64 digits that `assay audit verify` printed.")
    with known_store(backend.settings) as store:
        newest = store.audit_log(limit=1).items
        problem = store.verify_audit(head)
    if problem is not None:
        where = "" if problem.seq is None else f", line {problem.seq}"
        raise Trouble(f"the audit log was tampered with{where}: {problem.problem}", "Ask for a backup.", WANTING)
    click.echo(f"{newest[0].seq} lines hold together; the newest hash:" if newest else "no lines yet", err=True)
    if newest:
        click.echo(newest[0].hash)


@audit.command(epilog=examples("assay audit log", "assay audit log --limit 1000 --json"))
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many lines.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.pass_obj
def log(backend: Backend, limit: int, as_json: bool) -> None:
    """Show the newest lines, newest first."""
    with known_store(backend.settings) as store:
        lines = store.audit_log(limit=limit).items
    if as_json:
        print_json(
            [
                {
                    "seq": line.seq,
                    "at": iso(line.at_us),
                    "actor": line.actor,
                    "action": line.action,
                    "subject": line.subject,
                    "detail": dict(line.detail),
                    "hash": line.hash,
                }
                for line in lines
            ]
        )
        return
    table = plain_table("line", "time", "who", "did", "to", "detail", right=("line",))
    for line in lines:
        detail = ", ".join(f"{name}={value}" for name, value in line.detail.items())
        words = (line.actor, line.action, line.subject, detail)
        table.add_row(str(line.seq), iso(line.at_us), *(inert(word, 200) for word in words))
    stdout().print(table)
