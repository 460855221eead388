"""/v1/auth/totp, and LibreChat's settings dialog for the same under /api/auth/2fa."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from aiohttp import web
from msgspec import Meta

from geko_proxy.client_api.librechat_auth import read_json
from geko_proxy.client_api.profile import active_user
from geko_proxy.client_api.proofs import Proofs
from geko_proxy.client_api.second_factor_changes import SecondFactorChanges
from geko_proxy.client_api.validation import Body, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply

if TYPE_CHECKING:
    from geko_proxy.services import Services

Short = Annotated[str, Meta(min_length=1, max_length=1024)]
NO_STORE = {"Cache-Control": "no-store"}


class TotpEnrolBody(Body, frozen=True):
    """POST /v1/auth/totp. password: needed by an account that has one.

    code or recoveryCode: needed to replace a key that is in force.
    """

    password: Short | None = None
    code: Short | None = None
    recovery_code: Short | None = None


class TotpConfirmBody(Body, frozen=True):
    """POST /v1/auth/totp/confirm."""

    code: Short


class TotpProofBody(Body, frozen=True):
    """DELETE /v1/auth/totp, POST /v1/auth/totp/recovery-codes: the password, if there is one, and one of the codes."""

    password: Short | None = None
    code: Short | None = None
    recovery_code: Short | None = None


class SecondFactor:
    """The endpoints of /v1."""

    def __init__(self, services: Services, changes: SecondFactorChanges, proofs: Proofs) -> None:
        self._services = services
        self._changes = changes
        self._proofs = proofs

    async def status(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200: whether it is on, and how many recovery codes are left."""
        left = await self._changes.codes_left(exchange)
        return Reply.of_json(200, {"enabled": left is not None, "recoveryCodesLeft": left or 0}, NO_STORE)

    async def enrol(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200: the key, as text and for a QR code. It counts once it is confirmed, within an hour."""
        body = parse(TotpEnrolBody, await exchange.request.json())
        await self._prove(exchange, body.password)
        made = await self._changes.enrol(
            exchange, with_codes=False, code=body.code, recovery_code=body.recovery_code
        )
        return Reply.of_json(200, {"secret": made.secret, "otpauthUri": made.uri}, NO_STORE)

    async def confirm(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200: the recovery codes, shown this once. All other sessions are over."""
        body = parse(TotpConfirmBody, await exchange.request.json())
        codes = await self._changes.confirm(exchange, body.code)
        return Reply.of_json(200, {"recoveryCodes": codes}, NO_STORE)

    async def disable(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204."""
        body = parse(TotpProofBody, await exchange.request.json())
        await self._prove(exchange, body.password)
        await self._changes.disable(exchange, body.code, body.recovery_code)
        return Reply(204)

    async def renew_codes(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200: new recovery codes; the old ones are void."""
        body = parse(TotpProofBody, await exchange.request.json())
        await self._prove(exchange, body.password)
        codes = await self._changes.renew_codes(exchange, body.code, body.recovery_code)
        return Reply.of_json(200, {"recoveryCodes": codes}, NO_STORE)

    async def _prove(self, exchange: Exchange, password: str | None) -> None:
        user = await active_user(self._services, exchange)
        await self._proofs.by_password(exchange, user, password)


class LibreChatSecondFactor:
    """LibreChat's routes (its api/server/controllers/TwoFactorController.js). Its dialog sends no password."""

    def __init__(self, services: Services, changes: SecondFactorChanges, proofs: Proofs) -> None:
        self._services = services
        self._changes = changes
        self._proofs = proofs

    async def enable(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 {otpauthUrl, backupCodes}; a new key for one in force needs one of its codes.

        The dialog sends no password: with a stolen session alone its owner could be locked out, so it must be new.
        """
        code, backup = await _codes(exchange)
        await self._proofs.recent(exchange, await active_user(self._services, exchange))
        made = await _in_librechats_words(
            self._changes.enrol(exchange, with_codes=True, code=code, recovery_code=backup)
        )
        return Reply.of_json(200, {"otpauthUrl": made.uri, "backupCodes": made.recovery_codes}, NO_STORE)

    async def verify(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 when a code fits; of the key to be confirmed it is not used up, as `confirm` follows with the same."""
        code, backup = await _codes(exchange)
        try:
            if code:
                await self._changes.check_pending(exchange, code)
            else:
                await self._changes.check(exchange, None, backup)
        except Refused as refused:
            if refused.code == "not_begun" or refused.status == 429:
                raise
            raise Refused(400, refused.code, "Invalid token or backup code.") from None
        return _empty()

    async def confirm(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 when the key is in force."""
        code, _ = await _codes(exchange)
        try:
            await self._changes.confirm(exchange, code or "")
        except Refused as refused:
            if refused.code != "wrong_code":
                raise
            raise Refused(400, refused.code, "Invalid token.") from None
        return _empty()

    async def disable(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200."""
        await _in_librechats_words(self._changes.disable(exchange, *await _codes(exchange)))
        return _empty()

    async def renew_codes(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 {backupCodes, backupCodesHash}."""
        codes = await _in_librechats_words(self._changes.renew_codes(exchange, *await _codes(exchange)))
        hashes = [
            {"codeHash": "", "used": False, "usedAt": None} for _ in codes
        ]  # the client only counts them
        return Reply.of_json(200, {"backupCodes": codes, "backupCodesHash": hashes}, NO_STORE)


async def _codes(exchange: Exchange) -> tuple[str | None, str | None]:
    """`token` and `backupCode` of a body, which may be missing altogether. Raises Refused 400."""
    body: dict[str, Any] = await read_json(exchange) if await exchange.request.read() else {}
    found = tuple(body.get(name) or None for name in ("token", "backupCode"))
    if not all(each is None or isinstance(each, str) for each in found):
        raise Refused(400, "invalid_request", "Invalid token or backup code.")
    return found[0], None if found[0] else found[1]


async def _in_librechats_words(work: Any) -> Any:
    """What LibreChat says to a wrong code: its client does not renew the token for a 401 on these paths."""
    try:
        return await work
    except Refused as refused:
        if refused.code != "wrong_code":
            raise
        raise Refused(401, refused.code, "Invalid token or backup code") from None


def _empty() -> Reply:
    """`res.status(200).json()` of express: no body."""
    return Reply(200)
