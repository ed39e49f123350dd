"""API keys. A secret has 160 random bits, so that one SHA-256 hides it; nobody can look it up again."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from sqlalchemy import insert, select

from services.store.audit import append
from services.store.errors import NotFound
from services.store.ids import ALPHABET, KEY, new_id
from services.store.part import Part, us
from services.store.records import SCOPES, ApiKey, Scope
from services.store.tables import ApiKeyRow, clean

MARK = "assay_"  # lets scanners find a secret that leaked
_PREFIX_CHARS, _SECRET_CHARS = 8, 40
_USE_NOTED_EVERY_US = us(60)


class KeyPart(Part):
    """Who may do what."""

    def create_key(
        self, name: str, scopes: Sequence[Scope], expires_us: int | None = None, *, actor: str = "system"
    ) -> tuple[ApiKey, str]:
        """A key and its secret (`assay_…`), which is told this once. Raises ValueError for an unknown scope."""
        unknown = set(scopes) - set(SCOPES)
        if unknown or not scopes:
            raise ValueError(f"scopes are one or more of {', '.join(SCOPES)}")
        core = "".join(secrets.choice(ALPHABET) for _ in range(_PREFIX_CHARS + _SECRET_CHARS))
        with self._database.write() as session:
            now_us = self._clock()
            key = ApiKey(
                id=new_id(KEY, now_us),
                name=name,
                prefix=core[:_PREFIX_CHARS],
                scopes=tuple(scope for scope in SCOPES if scope in scopes),
                created_us=now_us,
                expires_us=expires_us,
                revoked_us=None,
                last_used_us=None,
            )
            values = {column: getattr(key, column) for column in ApiKey.__dataclass_fields__}
            session.execute(insert(ApiKeyRow).values(values | {"hash": _hash(core), "scopes": list(key.scopes)}))
            detail = {"name": name, "scopes": list(key.scopes), "expires_us": expires_us}
            append(self._database, session, now_us, actor, "key.create", key.id, detail)
        return key, MARK + core

    def authenticate(self, secret: str) -> ApiKey | None:
        """Whose secret this is; None where it is nobody's, revoked or expired. Notes the use once a minute."""
        core = clean(secret.removeprefix(MARK))
        if not secret.startswith(MARK):
            return None
        now_us = self._clock()
        with self._database.read() as session:
            row = session.scalar(select(ApiKeyRow).where(ApiKeyRow.prefix == core[:_PREFIX_CHARS]))
        if row is None or not hmac.compare_digest(row.hash, _hash(core)):
            return None
        if row.revoked_us is not None or (row.expires_us is not None and row.expires_us <= now_us):
            return None
        if (row.last_used_us or 0) <= now_us - _USE_NOTED_EVERY_US:
            with self._database.write() as session:
                used = session.get(ApiKeyRow, row.id, with_for_update=True)
                if used is not None:
                    used.last_used_us = now_us
        return _record(row)

    def revoke_key(self, key_id: str, *, actor: str = "system") -> ApiKey:
        """End a key, for good. Revoking twice is no error. Raises NotFound."""
        with self._database.write() as session:
            now_us = self._clock()
            row = session.get(ApiKeyRow, key_id, with_for_update=True)
            if row is None:
                raise NotFound(f"there is no key {key_id}")
            if row.revoked_us is None:
                row.revoked_us = now_us
                append(self._database, session, now_us, actor, "key.revoke", key_id)
            return _record(row)

    def list_keys(self) -> list[ApiKey]:
        """All keys, oldest first, revoked and expired ones too."""
        with self._database.read() as session:
            return [_record(row) for row in session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.id))]


def _hash(core: str) -> str:
    return hashlib.sha256((MARK + core).encode()).hexdigest()


def _record(row: ApiKeyRow) -> ApiKey:
    values = {name: getattr(row, name) for name in ApiKey.__dataclass_fields__}
    return ApiKey(**values | {"scopes": tuple(row.scopes)})
