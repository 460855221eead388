"""/v1/prices: what models cost the tenant, for limits in money; they come before those of geko.toml."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID, uuid4

from aiohttp import web
from msgspec import Meta, field

from geko_proxy.admin_api.access import read_uuid, record_in
from geko_proxy.admin_api.limit_bodies import Number, Problems
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import Body, parse
from geko_proxy.config.price_entries import is_glob
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.metering.money import decimal, read_money
from geko_proxy.metering.price_store import EVER, MAX_PRICES, OwnPrice, PriceExists, TooManyPrices
from geko_proxy.metering.prices import BILLIONTHS, MAX_PRICE, Price
from geko_proxy.metering.windows import load_zone, midnight

if TYPE_CHECKING:
    from geko_proxy.services import Services

NO_STORE: Final = {"Cache-Control": "no-store"}
Day = Annotated[date, Meta(description="A day such as 2026-11-01.")]
FIRST_DAY: Final = date(2000, 1, 1)


class NewPriceBody(Body, frozen=True):
    """POST /v1/prices. Prices of a million tokens, as numbers or text. cached null: as input; reasoning null: as
    output. from: the day in the tenant's time zone, null: today."""

    model: Annotated[str, Meta(max_length=256)]
    input: Number
    output: Number
    cached: Number | None = None
    reasoning: Number | None = None
    begins: Day | None = field(default=None, name="from")


class PriceReply(Shape, frozen=True):
    """A price of a million tokens. id null: it stands in geko.toml. from null: it always was."""

    id: UUID | None
    model: str
    input: str
    output: str
    cached: str | None
    reasoning: str | None
    from_: datetime | None = field(name="from")


class PricesReply(Shape, frozen=True):
    """The prices that count, the tenant's own first: the installation's count for models without one."""

    currency: str
    prices: list[PriceReply]


class Prices:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list_all(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the tenant's own prices and those of the installation."""
        services = self._services
        own = await services.prices.list_own(exchange.signed_in().tenant_id)
        shapes = [price_shape(each.price_id, each.price) for each in own]
        shapes += [price_shape(None, price) for price in services.prices.installation]
        value = {"currency": services.settings.metering.currency, "prices": shapes}
        return Reply.of_json(200, value, NO_STORE)

    async def create(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """201 with a new price, which counts for messages from its day on; what is charged already stays.

        409 when there is one for the same models and day, or too many.
        """
        services, identity = self._services, exchange.signed_in()
        zone = exchange.tenant.time_zone if exchange.tenant is not None else "UTC"
        own = OwnPrice(uuid4(), new_price(parse(NewPriceBody, await exchange.request.json()), zone))
        async with services.database.tenant(identity.tenant_id) as scope:
            try:
                await services.prices.insert(scope, own)
            except PriceExists:
                text = "There is a price for the same models from the same day on. Delete that one first."
                raise Refused(409, "price_exists", text) from None
            except TooManyPrices:
                text = f"There are {MAX_PRICES} prices already. Delete one first."
                raise Refused(409, "too_many_prices", text) from None
            shape = price_shape(own.price_id, own.price)
            target = f"price/{own.price_id}"
            details = {"before": None, "after": shape}
            await record_in(scope, services, exchange, identity.user_id, "price.create", target, details)
        services.prices.forget(identity.tenant_id)
        return Reply.of_json(201, shape, NO_STORE)

    async def delete(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204; one of the installation can't be deleted here, but one's own comes before it."""
        services, identity = self._services, exchange.signed_in()
        price_id = read_uuid(exchange.params["priceId"])
        async with services.database.tenant(identity.tenant_id) as scope:
            gone = None if price_id is None else await services.prices.delete(scope, price_id)
            if gone is None:
                raise Refused(404, "price_not_found", "There is no such price.")
            details = {"before": price_shape(gone.price_id, gone.price), "after": None}
            target = f"price/{gone.price_id}"
            await record_in(scope, services, exchange, identity.user_id, "price.delete", target, details)
        services.prices.forget(identity.tenant_id)
        return Reply(204)


def new_price(body: NewPriceBody, time_zone: str) -> Price:
    """The price that is asked for. Raises Refused 400 naming every field that can't be."""
    problems = Problems()
    if not is_glob(body.model):
        problems["model"] = (
            'Must be "Endpoint/model", where * stands for any text, for example "openAI/gpt-4*".'
        )
    numbers = {"input": body.input, "output": body.output, "cached": body.cached, "reasoning": body.reasoning}
    read: dict[str, int] = {}
    for name, value in numbers.items():
        if value is not None:
            read[name] = problems.read(name, lambda value=value: read_price(value))  # type: ignore[misc]
    zone = load_zone(time_zone)
    day = body.begins or datetime.now(UTC).astimezone(zone).date()
    if not FIRST_DAY <= day <= FIRST_DAY.replace(year=2200):
        problems["from"] = "Must be a day from 2000 to 2199."
        day = FIRST_DAY
    problems.check()
    cached, reasoning = read.get("cached"), read.get("reasoning")
    return Price(body.model, read["input"], read["output"], midnight(day, zone), cached, reasoning)


def read_price(value: Number) -> int:
    """A price in billionths. Raises ValueError."""
    price = read_money(value)
    if price > MAX_PRICE:
        raise ValueError(f"expected at most {MAX_PRICE // BILLIONTHS} for a million tokens")
    return price


def price_shape(price_id: UUID | None, price: Price) -> dict[str, Any]:
    """The JSON of a price."""
    return {
        "id": price_id,
        "model": price.model,
        "input": decimal(price.input),
        "output": decimal(price.output),
        "cached": None if price.cached is None else decimal(price.cached),
        "reasoning": None if price.reasoning is None else decimal(price.reasoning),
        "from": None if price.valid_from == EVER else price.valid_from,
    }
