"""The LibreChat that is looked at, and the account that looks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from geko_proxy.accounts.shadow import MintedCredentials, Shadow, ShadowPasswords
from geko_proxy.config import Settings
from geko_proxy.doctor.probe import Probe
from geko_proxy.errors import UpstreamError
from geko_proxy.librechat_client import LibreChatClient, SignedIn

NOBODY = UUID(int=0)  # no workspace has this id, and so no person gets this account


@dataclass(slots=True)
class Patient:
    """LibreChat as it is reached. bearer: of the doctor's own account there, once it is signed in; user_id: its id."""

    settings: Settings
    probe: Probe
    client: LibreChatClient
    bearer: str = ""
    user_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)  # as it is told to anybody

    @property
    def passwords(self) -> ShadowPasswords:
        """How accounts of GEKO's in LibreChat sign in."""
        librechat = self.settings.librechat
        return ShadowPasswords(librechat.shadow_secret, librechat.shadow_email_domain)

    @property
    def own_email(self) -> str:
        """The address of the doctor's own account."""
        return self.passwords.email(NOBODY, NOBODY, NOBODY)

    async def sign_in(self, email: str) -> SignedIn | None:
        """Sign in, making the account if needed; None: there is none afterwards. Raises UpstreamError."""
        password = self.passwords.of(email)
        signed_in = await self.client.login(email, password)
        if signed_in is None:
            await self.client.register(email, password, "GEKO doctor")
            signed_in = await self.client.login(email, password)
        return signed_in

    async def get(self, path: str) -> Any:
        """What the doctor's account gets as JSON; None for anything else than 200."""
        seen = await self.probe.ask("GET", path, bearer=self.bearer)
        return seen.value if seen.status == 200 else None

    def minted(self) -> MintedCredentials:
        """Credentials by the secrets that GEKO believes it shares."""
        librechat = self.settings.librechat
        return MintedCredentials(librechat.jwt_secret, librechat.jwt_refresh_secret or None)

    def own_shadow(self) -> Shadow:
        """The doctor's account. Raises UpstreamError before it is signed in."""
        if not self.user_id:
            raise UpstreamError("the doctor has no account")
        return Shadow(self.user_id, self.own_email)
