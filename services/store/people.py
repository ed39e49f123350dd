"""The people who use the dashboard, and their sessions.

Passwords are kept as argon2id, tokens as SHA-256: those have 256 random bits.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import secrets
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import ForeignKey, String, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from services.store.audit import append
from services.store.errors import Busy, Conflict, NotFound
from services.store.ids import new_id
from services.store.part import Part, us
from services.store.tables import Id, Key, Table, Time, Words, clean

Role = Literal["recruiter", "interviewer", "admin"]
ROLES: tuple[Role, ...] = ("recruiter", "interviewer", "admin")
SHORTEST_PASSWORD, LONGEST_PASSWORD = 12, 256
_NO_PART_OF_A_LINE = ("Cc", "Cs", "Zl", "Zp")  # controls, halves of characters, ends of lines and paragraphs
_TOKEN_BYTES = 32
_SEEN_EVERY_US = us(60)
R = TypeVar("R")
_hasher = PasswordHasher()
# Each check takes 64 MiB for a moment, and anybody can ask for one.
_HASHES_AT_ONCE, _HASH_WAIT_S = 2, 10.0
_hash_slots = threading.BoundedSemaphore(_HASHES_AT_ONCE)


class UserRow(Table):
    """Somebody who signs in."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    email: Mapped[str] = mapped_column(Key, unique=True)  # in small letters
    name: Mapped[str] = mapped_column(Words)
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str] = mapped_column(Words)
    failures: Mapped[int]
    locked_until_us: Mapped[int | None] = mapped_column(Time)
    disabled_us: Mapped[int | None] = mapped_column(Time)
    created_us: Mapped[int] = mapped_column(Time)
    last_sign_in_us: Mapped[int | None] = mapped_column(Time)


class SessionRow(Table):
    """One browser that is signed in."""

    __tablename__ = "sessions"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"), index=True)
    blind: Mapped[bool]
    created_us: Mapped[int] = mapped_column(Time)
    seen_us: Mapped[int] = mapped_column(Time)
    expires_us: Mapped[int] = mapped_column(Time)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who signs in, without the password."""

    id: str
    email: str
    name: str
    role: Role
    locked_until_us: int | None
    disabled_us: int | None
    created_us: int
    last_sign_in_us: int | None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session and whose it is."""

    user: User
    blind: bool
    expires_us: int


class PeoplePart(Part):
    """Users and their sessions."""

    def create_user(self, email: str, name: str, role: Role, password: str, *, actor: str = "system") -> User:
        """A new user.

        Raises:
            ValueError: an e-mail, a name, a role or a password that will not do.
            Conflict: there is one with this address.
        """
        address, shown = _address(email), _name(name)
        if role not in ROLES:
            raise ValueError(f"roles are {', '.join(ROLES)}")
        hashed = _hashed(password)
        with self._database.write() as session:
            now_us = self._clock()
            values = {
                "id": new_id("usr", now_us),
                "email": address,
                "name": shown or address,
                "role": role,
                "password_hash": hashed,
                "failures": 0,
                "created_us": now_us,
            }
            if not self._database.add_if_new(session, UserRow, values):
                raise Conflict(f"there is a user {address} already")
            row = _user_row(session, values["id"])
            append(self._database, session, now_us, actor, "user.create", row.id, {"role": role})
            return record_of(User, row)

    def user(self, user_id: str) -> User | None:
        """One user."""
        with self._database.read() as session:
            row = session.get(UserRow, user_id)
            return None if row is None else record_of(User, row)

    def user_by_email(self, email: str) -> User | None:
        """The user with this address."""
        with self._database.read() as session:
            row = session.scalar(select(UserRow).where(UserRow.email == email.strip().casefold()))
            return None if row is None else record_of(User, row)

    def list_users(self) -> list[User]:
        """All users, oldest first, disabled ones too."""
        with self._database.read() as session:
            return [record_of(User, row) for row in session.scalars(select(UserRow).order_by(UserRow.id))]

    def set_role(self, user_id: str, role: Role, *, actor: str = "system") -> User:
        """Change what a user may do, from the next request on. Raises NotFound, ValueError, Conflict (last admin)."""
        if role not in ROLES:
            raise ValueError(f"roles are {', '.join(ROLES)}")
        with self._database.write() as session:
            _hold_admins(session)
            row = _user_row(session, user_id)
            if row.role == "admin" and role != "admin":
                _keep_an_admin(session, row)
            row.role = role
            append(self._database, session, self._clock(), actor, "user.role", user_id, {"role": role})
            return record_of(User, row)

    def set_password(self, user_id: str, password: str, *, actor: str = "system") -> User:
        """Replace the password, end all sessions and the lock. Raises NotFound, ValueError."""
        hashed = _hashed(password)
        with self._database.write() as session:
            row = _user_row(session, user_id)
            row.password_hash, row.failures, row.locked_until_us = hashed, 0, None
            session.execute(delete(SessionRow).where(SessionRow.user_id == user_id))
            append(self._database, session, self._clock(), actor, "user.password", user_id)
            return record_of(User, row)

    def disable_user(self, user_id: str, *, actor: str = "system") -> User:
        """Let a user in no more and end all sessions. Raises NotFound, Conflict for the last admin."""
        with self._database.write() as session:
            now_us = self._clock()
            _hold_admins(session)
            row = _user_row(session, user_id)
            if row.disabled_us is None:
                _keep_an_admin(session, row)
                row.disabled_us = now_us
                session.execute(delete(SessionRow).where(SessionRow.user_id == user_id))
                append(self._database, session, now_us, actor, "user.disable", user_id)
            return record_of(User, row)

    def enable_user(self, user_id: str, *, actor: str = "system") -> User:
        """Undo that, and a lock. Raises NotFound."""
        with self._database.write() as session:
            row = _user_row(session, user_id)
            row.disabled_us = row.locked_until_us = None
            row.failures = 0
            append(self._database, session, self._clock(), actor, "user.enable", user_id)
            return record_of(User, row)

    def check_password(self, email: str, password: str, *, attempts: int, lock_s: float) -> User | None:
        """Who this is; None for a wrong password, nobody, somebody disabled or locked.

        After `attempts` failures in a row the account is locked for `lock_s`. All answers take about the same time.
        """
        with self._database.read() as session:
            row = session.scalar(select(UserRow).where(UserRow.email == email.strip().casefold()))
        known = row.password_hash if row is not None else _nobodys_hash()
        right = len(password) <= LONGEST_PASSWORD and _matches(known, password)
        if row is None:
            return None
        with self._database.write() as session:
            now_us = self._clock()
            user = _user_row(session, row.id)
            if user.disabled_us is not None or (user.locked_until_us or 0) > now_us:
                return None
            if not right:
                user.failures += 1
                if user.failures >= attempts:
                    user.failures, user.locked_until_us = 0, now_us + us(lock_s)
                    append(self._database, session, now_us, user.id, "user.lock", user.id)
                return None
            user.failures, user.locked_until_us, user.last_sign_in_us = 0, None, now_us
            if _hasher.check_needs_rehash(user.password_hash):
                user.password_hash = _hashed(password)
            append(self._database, session, now_us, user.id, "user.sign_in", user.id)
            return record_of(User, user)

    def open_session(self, user_id: str, most_s: float, *, replaces: str | None = None) -> str:
        """A new session's token, told this once; the session `replaces` ends."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        with self._database.write() as session:
            now_us = self._clock()
            session.execute(delete(SessionRow).where(SessionRow.expires_us <= now_us))
            if replaces:
                session.execute(delete(SessionRow).where(SessionRow.token_hash == token_hash(replaces)))
            session.add(
                SessionRow(
                    token_hash=token_hash(token),
                    user_id=user_id,
                    blind=False,
                    created_us=now_us,
                    seen_us=now_us,
                    expires_us=now_us + us(most_s),
                )
            )
        return token

    def signed_in(self, token: str, idle_s: float) -> SignedIn | None:
        """Whose session this is; None where it ended, lay idle for longer, or its user is disabled."""
        now_us = self._clock()
        found = select(SessionRow, UserRow).join(UserRow, UserRow.id == SessionRow.user_id)
        with self._database.read() as session:
            pair = session.execute(found.where(SessionRow.token_hash == token_hash(token))).one_or_none()
        if pair is None:
            return None
        visit, user = pair
        ended = visit.expires_us <= now_us or visit.seen_us + us(idle_s) <= now_us
        if ended or user.disabled_us is not None:
            return None
        if visit.seen_us <= now_us - _SEEN_EVERY_US:
            with self._database.write() as session:
                mine = update(SessionRow).where(SessionRow.token_hash == visit.token_hash)
                session.execute(mine.values(seen_us=now_us))
        return SignedIn(record_of(User, user), visit.blind, visit.expires_us)

    def set_blind(self, token: str, blind: bool) -> None:
        """Hide names in this session, or show them."""
        with self._database.write() as session:
            session.execute(update(SessionRow).where(SessionRow.token_hash == token_hash(token)).values(blind=blind))

    def close_session(self, token: str) -> None:
        """End a session. Ending none is no error."""
        with self._database.write() as session:
            session.execute(delete(SessionRow).where(SessionRow.token_hash == token_hash(token)))


def _address(email: str) -> str:
    address = clean(email.strip().casefold())
    name, at, host = address.rpartition("@")
    if not (name and at and host) or len(address) > 200 or not address.isprintable() or " " in address:
        raise ValueError("that is no e-mail address")
    return address


def _name(name: str) -> str:
    """What notes are signed with: one line."""
    shown = clean(name.strip())[:200]
    if any(unicodedata.category(character) in _NO_PART_OF_A_LINE for character in shown):
        raise ValueError("a name is one line, without control characters")
    return shown


def _hashed(password: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ValueError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    with _hash_slot():
        return _hasher.hash(password.encode("utf-8", "replace"))


@functools.cache
def _nobodys_hash() -> str:
    """Verified where there is no such user, so that guessing names takes as long as guessing passwords."""
    return _hashed(secrets.token_urlsafe(_TOKEN_BYTES))


@contextlib.contextmanager
def _hash_slot() -> Iterator[None]:
    """Wait for a turn, so that memory is bounded. Raises Busy where that takes too long."""
    if not _hash_slots.acquire(timeout=_HASH_WAIT_S):
        raise Busy("too many passwords are being checked")
    try:
        yield
    finally:
        _hash_slots.release()


def _matches(hashed: str, password: str) -> bool:
    try:
        with _hash_slot():
            return _hasher.verify(hashed, password.encode("utf-8", "replace"))
    except (VerificationError, InvalidHashError):
        return False


def token_hash(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _user_row(session: Session, user_id: Any) -> UserRow:
    row = session.get(UserRow, user_id, with_for_update={"key_share": True})
    if row is None:
        raise NotFound(f"there is no user {user_id}")
    return row


def _hold_admins(session: Session) -> None:
    """Let nobody else take away an administrator meanwhile: two could each find the other still there."""
    session.execute(select(UserRow.id).where(UserRow.role == "admin").order_by(UserRow.id).with_for_update())


def _keep_an_admin(session: Session, row: UserRow) -> None:
    """Raise Conflict where `row` is the last who could let others in."""
    others = select(func.count()).where(UserRow.role == "admin", UserRow.disabled_us.is_(None), UserRow.id != row.id)
    if row.role == "admin" and row.disabled_us is None and not session.scalar(others):
        raise Conflict("the last administrator stays one")


def record_of(kind: type[R], row: object) -> R:
    """A row as the dataclass with the same names."""
    return kind(**{name: getattr(row, name) for name in kind.__dataclass_fields__})  # type: ignore[attr-defined]
