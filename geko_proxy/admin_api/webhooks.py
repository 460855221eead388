"""…/webhooks of a workspace and of a tenant: who is told when a quota is nearly used up (docs/alerts.md)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from geko_proxy.admin_api.access import Access, entered, read_uuid, record_in
from geko_proxy.alerts.events import EVENTS, TEST, THRESHOLD, payload
from geko_proxy.alerts.signing import message_id
from geko_proxy.alerts.targets import MAX_URL, ForbiddenTarget
from geko_proxy.alerts.webhooks import MAIL, MAX_WEBHOOKS, WEBHOOK, TooManyWebhooks, Webhook
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.storage.database import Scope
from geko_proxy.workspaces.config import is_name

if TYPE_CHECKING:
    from asyncpg import Record

    from geko_proxy.services import Services

Url = Annotated[str, Meta(min_length=1, max_length=MAX_URL)]
Description = Annotated[str, Meta(max_length=200)]
Events = Annotated[tuple[str, ...], Meta(min_length=1, max_length=20)]

SHOWN_DELIVERIES: Final = 50
NO_STORE: Final = {"Cache-Control": "no-store"}


class NewWebhookBody(Body, frozen=True):
    """POST …/webhooks. channel: "mail" goes to the owners and admins, and has no url."""

    channel: Literal["webhook", "mail"] = "webhook"
    url: Url | None = None
    description: Description = ""
    events: Events = (THRESHOLD,)
    enabled: bool = True


class WebhookChangeBody(Body, frozen=True):
    """PATCH …/webhooks/{webhookId}. A field left out stays as it is; renewSecret: the reply has another secret."""

    url: Url | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    renew_secret: bool = False


class NoBody(Body, frozen=True):
    """POST …/webhooks/{webhookId}/test takes nothing."""


class WebhookReply(Shape, frozen=True):
    """One webhook. secret: only in the reply that made it. disabledReason: why GEKO has switched it off."""

    id: UUID
    channel: str
    url: str | None
    description: str
    events: list[str]
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime
    secret: str | UnsetType = UNSET


class WebhooksReply(Shape, frozen=True):
    """The webhooks of a workspace or a tenant, oldest first."""

    webhooks: list[WebhookReply]


class WebhookTestReply(Shape, frozen=True):
    """A test message is on its way. id: as in the deliveries, and the webhook-id that the receiver gets."""

    id: str


class DeliveryShape(Shape, frozen=True):
    """One message. status: the HTTP status of the last reply, null without one."""

    id: str
    event: str
    state: str
    attempts: int
    status: int | None
    error: str | None
    created_at: datetime
    last_attempt_at: datetime | None
    next_attempt_at: datetime | None
    ended_at: datetime | None


class DeliveriesReply(Shape, frozen=True):
    """The last deliveries of a webhook, newest first."""

    deliveries: list[DeliveryShape]


class Webhooks:
    """The endpoints. of_tenant: for all workspaces of the caller's tenant, else for the path's."""

    def __init__(self, services: Services, *, of_tenant: bool = False) -> None:
        self._services = services
        self._of_tenant = of_tenant

    async def list_all(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the webhooks, without their secrets."""
        place = self._place(exchange)
        async with self._services.database.tenant(place.tenant_id) as scope:
            found = await self._services.alerts.webhooks.list(scope, self._workspace(place))
        return Reply.of_json(200, WebhooksReply(webhooks=[shape(each) for each in found]), NO_STORE)

    async def create(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """201 with the new webhook; its secret is shown this once."""
        services, place = self._services, self._place(exchange)
        body = parse(NewWebhookBody, await exchange.request.json())
        await self._check(body.channel, body.url, body.description, body.events)
        events, text = tuple(dict.fromkeys(body.events)), body.description.strip()
        async with services.database.tenant(place.tenant_id) as scope:
            try:
                made, secret = await services.alerts.webhooks.create(
                    scope,
                    self._workspace(place),
                    body.channel,
                    body.url,
                    text,
                    events,
                    enabled=body.enabled,
                )
            except TooManyWebhooks:
                raise Refused(
                    409, "too_many_webhooks", f"There are {MAX_WEBHOOKS} webhooks already. Delete one first."
                ) from None
            await self._audit(scope, exchange, place, "webhook.create", made)
        return Reply.of_json(201, shape(made, secret), NO_STORE)

    async def change(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the changed webhook. Switched off, it gets nothing more, also not what is still being tried."""
        services, place = self._services, self._place(exchange)
        body = parse(WebhookChangeBody, await exchange.request.json())
        url = None if isinstance(body.url, UnsetType) else body.url
        if url is not None:  # asks a name server: not inside a transaction
            await self._check(WEBHOOK, url, "", (THRESHOLD,))
        async with services.database.tenant(place.tenant_id) as scope:
            webhook = changed(await self._get(scope, exchange, place), body)
            check_words(webhook.description, webhook.events)
            if webhook.channel == MAIL and (url is not None or body.renew_secret):
                raise invalid({"url" if url is not None else "renewSecret": "Mail has none."})
            made = await services.alerts.webhooks.update(scope, webhook)
            secret = None
            if body.renew_secret:
                secret = await services.alerts.webhooks.renew_secret(scope, made.webhook_id)
            await self._audit(scope, exchange, place, "webhook.update", made, renewed=secret is not None)
        return Reply.of_json(200, shape(made, secret), NO_STORE)

    async def delete(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204; the webhook and what is known of its deliveries are gone."""
        place = self._place(exchange)
        async with self._services.database.tenant(place.tenant_id) as scope:
            webhook = await self._get(scope, exchange, place)
            await self._services.alerts.webhooks.delete(scope, self._workspace(place), webhook.webhook_id)
            await self._audit(scope, exchange, place, "webhook.delete", webhook)
        return Reply(204)

    async def test(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """202; a message of type webhook.test is sent now, tried once. What came of it is in the deliveries."""
        services, place = self._services, self._place(exchange)
        parse(NoBody, await exchange.request.json() if await exchange.request.read() else {})
        async with services.database.tenant(place.tenant_id) as scope:
            webhook = await self._get(scope, exchange, place)
            data = {"workspaceId": place.workspace_id, "tenantId": place.tenant_id}
            text = payload(TEST, datetime.now(UTC), data)
            made = await services.alerts.deliveries.add_test(
                scope, webhook.webhook_id, place.workspace_id, text
            )
        if made is None:
            raise Refused(429, "too_many_tests", "Too many tests of this webhook.", retry_after_s=60)
        return Reply.of_json(202, WebhookTestReply(id=message_id(made)), NO_STORE)

    async def deliveries(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the last deliveries, those of 30 days at most."""
        place = self._place(exchange)
        async with self._services.database.tenant(place.tenant_id) as scope:
            webhook = await self._get(scope, exchange, place)
            rows = await self._services.alerts.deliveries.last(scope, webhook.webhook_id, SHOWN_DELIVERIES)
        return Reply.of_json(200, DeliveriesReply(deliveries=[delivery_shape(row) for row in rows]), NO_STORE)

    def _place(self, exchange: Exchange) -> Access:
        """The caller, in the path's workspace or in that of the token."""
        if not self._of_tenant:
            return entered(exchange)
        identity = exchange.signed_in()
        assert exchange.role is not None
        return Access(identity.tenant_id, identity.workspace_id, identity.user_id, exchange.role)

    def _workspace(self, place: Access) -> UUID | None:
        return None if self._of_tenant else place.workspace_id

    async def _get(self, scope: Scope, exchange: Exchange, place: Access) -> Webhook:
        webhook_id = read_uuid(exchange.params["webhookId"])
        found = None
        if webhook_id is not None:
            found = await self._services.alerts.webhooks.get(scope, self._workspace(place), webhook_id)
        if found is None:
            raise Refused(404, "webhook_not_found", "There is no such webhook.")
        return found

    async def _check(self, channel: str, url: str | None, description: str, events: tuple[str, ...]) -> None:
        """Raises Refused 400 for what can't be, 503 for mail that is off."""
        check_words(description, events)
        if channel == MAIL:
            if url is not None:
                raise invalid({"url": "Mail has none."})
            if self._services.mailer is None:
                raise Refused(503, "mail_off", "GEKO sends no mail here.")
            return
        if url is None:
            raise invalid({"url": "Required."})
        try:
            await self._services.alerts.targets.check(url)
        except ForbiddenTarget as error:
            raise invalid({"url": str(error)}) from None

    async def _audit(
        self, scope: Scope, exchange: Exchange, place: Access, action: str, webhook: Webhook, **more: bool
    ) -> None:
        details = {
            "workspaceId": webhook.workspace_id,
            "channel": webhook.channel,
            # not the path: those of chat services are as good as a password
            "host": None if webhook.url is None else urlsplit(webhook.url).netloc,
            "events": webhook.events,
            "enabled": webhook.enabled,
            **more,
        }
        target = f"webhook/{webhook.webhook_id}"
        await record_in(scope, self._services, exchange, place.user_id, action, target, details)


def check_words(description: str, events: tuple[str, ...]) -> None:
    """Raises Refused 400 for unreadable text and for events that there are not."""
    problems = {}
    if description.strip() and not is_name(description.strip()):
        problems["description"] = "Must be readable text."
    if unknown := [each for each in events if each not in EVENTS]:
        problems["events"] = f"Unknown: {unknown[0][:60]!r}. There is: {', '.join(EVENTS)}."
    if problems:
        raise invalid(problems)


def changed(webhook: Webhook, body: WebhookChangeBody) -> Webhook:
    """The webhook with the fields of the body."""
    given: dict[str, Any] = {
        name: getattr(body, name)
        for name in ("url", "description", "events", "enabled")
        if not isinstance(getattr(body, name), UnsetType)
    }
    if "events" in given:
        given["events"] = tuple(dict.fromkeys(given["events"]))
    if "description" in given:
        given["description"] = given["description"].strip()
    return replace(webhook, **given)


def shape(webhook: Webhook, secret: str | None = None) -> WebhookReply:
    """The JSON of a webhook."""
    assert webhook.created_at is not None
    assert webhook.updated_at is not None
    return WebhookReply(
        id=webhook.webhook_id,
        channel=webhook.channel,
        url=webhook.url,
        description=webhook.description,
        events=list(webhook.events),
        enabled=webhook.enabled,
        disabled_reason=webhook.disabled_reason,
        failing_since=webhook.failing_since,
        created_at=webhook.created_at,
        updated_at=webhook.updated_at,
        secret=UNSET if secret is None else secret,
    )


def delivery_shape(row: Record) -> DeliveryShape:
    """The JSON of a delivery."""
    same = (
        "event",
        "state",
        "attempts",
        "created_at",
        "last_attempt_at",
        "next_attempt_at",
        "ended_at",
    )
    named = {"status": row["last_status"], "error": row["last_error"]}
    return DeliveryShape(id=message_id(row["delivery_id"]), **named, **{name: row[name] for name in same})
