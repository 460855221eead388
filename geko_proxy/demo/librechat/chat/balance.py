"""LibreChat's own balance: credits per account, off unless Settings.start_balance is set."""

from __future__ import annotations

from aiohttp import web

from geko_proxy.demo.librechat.accounts import Account
from geko_proxy.demo.librechat.chat.provider import Usage
from geko_proxy.demo.librechat.express import Json, json_reply, no_content, now_iso
from geko_proxy.demo.librechat.routes import Call, Route

_RATES = {"gpt-4o": (2.5, 10.0), "gpt-4o-mini": (0.15, 0.6), "claude-sonnet-4": (3.0, 15.0)}
_OTHER_RATES = (6.0, 6.0)


def charge(account: Account, model: str, usage: Usage) -> None:
    """Take a call's price from the credits, down to zero."""
    if account.credits is not None:
        prompt, completion = _RATES.get(model, _OTHER_RATES)
        price = usage.prompt * prompt + usage.completion * completion
        account.credits = max(0.0, round(account.credits - price, 4))


def lack_of_credits(account: Account, model: str, prompt_tokens: int) -> Json | None:
    """The `token_balance` violation when the prompt alone costs more than there is."""
    price = prompt_tokens * _RATES.get(model, _OTHER_RATES)[0]
    if account.credits is None or account.credits >= price:
        return None
    details = {"type": "token_balance", "balance": account.credits, "tokenCost": price}
    return {
        **details,
        "promptTokens": prompt_tokens,
        "prev_count": 0,
        "violation_count": 0,
        "date": now_iso(),
    }


async def balance(call: Call) -> web.Response:
    """GET /api/balance"""
    if call.user.credits is None:
        return no_content()
    shown = {"user": call.user.id, "__v": 0, "autoRefillEnabled": False, "tokenCredits": call.user.credits}
    return json_reply(shown)


ROUTES = (Route("GET", "/api/balance", balance),)
