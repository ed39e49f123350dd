"""Applicant tracking systems that send submissions."""

from __future__ import annotations

import hashlib

from sqlalchemy import select

from services.store.audit import append
from services.store.errors import Conflict, NotFound
from services.store.ids import INTEGRATION, new_id
from services.store.part import Part
from services.store.records import Integration, NewIntegration, Secret
from services.store.tables import IntegrationRow


class IntegrationPart(Part):
    """Who sends submissions, and how it proves that."""

    def create_integration(self, new: NewIntegration, *, actor: str = "system") -> Integration:
        """Add an integration. Raises Conflict when the slug is taken."""
        with self._database.write() as session:
            now_us = self._clock()
            credential = new.credential
            values = {
                "id": new_id(INTEGRATION, now_us),
                "slug": new.slug,
                "kind": new.kind,
                "secrets": [{"secret": one, "created_us": now_us} for one in new.secrets],
                "credential_sha256": None if credential is None else hashlib.sha256(credential.encode()).hexdigest(),
                "challenge_map": dict(new.challenge_map),
                "settings": dict(new.settings),
                "created_us": now_us,
            }
            if not self._database.add_if_new(session, IntegrationRow, values):
                raise Conflict(f"there is an integration {new.slug} already")
            detail = {"slug": new.slug, "kind": new.kind}
            append(self._database, session, now_us, actor, "integration.create", str(values["id"]), detail)
            row = session.get(IntegrationRow, values["id"])
            assert row is not None
            return _record(row)

    def list_integrations(self) -> list[Integration]:
        """All integrations, oldest first."""
        with self._database.read() as session:
            return [_record(row) for row in session.scalars(select(IntegrationRow).order_by(IntegrationRow.id))]

    def integration(self, integration_id: str) -> Integration | None:
        """One integration by its id."""
        with self._database.read() as session:
            row = session.get(IntegrationRow, integration_id)
            return None if row is None else _record(row)

    def integration_by_slug(self, slug: str) -> Integration | None:
        """One integration by the name in its URL."""
        with self._database.read() as session:
            row = session.scalar(select(IntegrationRow).where(IntegrationRow.slug == slug))
            return None if row is None else _record(row)

    def delete_integration(self, integration_id: str, *, actor: str = "system") -> None:
        """Remove an integration; its submissions stay. Raises NotFound."""
        with self._database.write() as session:
            row = session.get(IntegrationRow, integration_id, with_for_update=True)
            if row is None:
                raise NotFound(f"there is no integration {integration_id}")
            session.delete(row)
            session.flush()
            append(self._database, session, self._clock(), actor, "integration.delete", integration_id)


def _record(row: IntegrationRow) -> Integration:
    values = {name: getattr(row, name) for name in Integration.__dataclass_fields__}
    return Integration(**values | {"secrets": tuple(Secret(**one) for one in row.secrets)})
