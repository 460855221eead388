"""Two small pages for browsers: accepting an invitation, and switching to another workspace.

Each is the same bytes for everybody: nothing of a request gets into its HTML, and its script shows what /v1 answers as
text. Both act by POST with a bearer, which no other site's page has.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from geko_proxy.exchange import Exchange, Reply

STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:12vh auto;padding:0 1rem;color:#222;"
    "background:#fff}label,input,button{display:block;width:100%;box-sizing:border-box;font:inherit}"
    "input{margin:.2rem 0 .8rem;padding:.4rem}button{margin:.6rem 0;padding:.5rem;cursor:pointer}"
    "[role=alert]{color:#b00020}@media(prefers-color-scheme:dark){body{color:#eee;background:#171717}"
    "[role=alert]{color:#ff8a80}}"
)

# What both scripts need. The storage is emptied here too: Clear-Site-Data does not work over plain http.
SHARED: Final = """
"use strict";
const $ = (id) => document.getElementById(id);
async function call(method, path, body, token) {
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  if (token) headers.Authorization = "Bearer " + token;
  const reply = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store" });
  const text = await reply.text();
  const value = text ? JSON.parse(text) : {};
  if (!reply.ok) throw Object.assign(new Error(value.error.message), { status: reply.status });
  return value;
}
async function signIn() {
  return (await call("POST", "/v1/auth/refresh")).accessToken;
}
async function enter() {
  localStorage.clear();
  sessionStorage.clear();
  const stores = indexedDB.databases ? await indexedDB.databases() : [];
  for (const store of stores) indexedDB.deleteDatabase(store.name);
  location.replace("/c/new");
}
function fail(error) {
  $("problem").textContent = error.message;
}
function run(work) {
  $("problem").textContent = "";
  work().catch(fail);
}
"""

INVITATION_SCRIPT: Final = """
const here = location.pathname.replace(/\\/$/, "");
let bound = null;
async function show() {
  const offer = await call("GET", here);
  bound = offer.email;
  $("offer").textContent = offer.invitedBy + " invites you to the workspace " + offer.workspace + " of " +
    offer.tenant + ", as " + offer.role + ".";
  if (bound) { $("email").value = bound; $("email").readOnly = true; }
  $("ways").hidden = false;
}
async function register() {
  await call("POST", here + "/accept",
    { name: $("name").value, email: $("email").value, password: $("password").value });
  await enter();
}
async function join() {
  let token;
  try { token = await signIn(); } catch (error) {
    if (error.status !== 401) throw error;
    throw new Error("You are not signed in in this browser. Sign in, then open this link again.");
  }
  const done = await call("POST", here + "/accept", {}, token);
  await call("POST", "/v1/auth/switch", { workspaceId: done.workspace.id }, token);
  await enter();
}
$("new").addEventListener("submit", (event) => { event.preventDefault(); run(register); });
$("join").addEventListener("click", () => run(join));
run(show);
"""

INVITATION: Final = """<h1>Invitation</h1><p id="offer"></p><p id="problem" role="alert"></p>
<div id="ways" hidden><form id="new"><h2>I am new here</h2>
<label for="name">Name</label><input id="name" required maxlength="80" autocomplete="name">
<label for="email">E-mail</label><input id="email" type="email" required maxlength="254" autocomplete="username">
<label for="password">Password</label><input id="password" type="password" required minlength="8" maxlength="128"
autocomplete="new-password"><button>Create account and join</button></form>
<h2>I have an account</h2><button id="join" type="button">Join as who I am signed in</button>
<p><a href="/login">Sign in</a></p></div>"""

SWITCH_SCRIPT: Final = """
async function show() {
  const token = await signIn();
  const found = (await call("GET", "/v1/workspaces", null, token)).workspaces;
  for (const workspace of found) {
    const button = document.createElement("button");
    button.textContent = workspace.name + (workspace.current ? " (you are here)" : "");
    button.addEventListener("click", () => run(async () => {
      await call("POST", "/v1/auth/switch", { workspaceId: workspace.id }, token);
      await enter();
    }));
    $("workspaces").append(button);
  }
}
run(show);
"""

SWITCH: Final = """<h1>Workspaces</h1><p>What you have typed and not sent is dropped when you switch.</p>
<p id="problem" role="alert"></p><div id="workspaces"></div><p><a href="/">Back</a></p>"""


def page(title: str, body: str, script: str) -> tuple[bytes, str]:
    """A page and its Content-Security-Policy: no script and style but its own, no calls but to GEKO."""
    script = SHARED + script
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="robots" content="noindex">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style></head>'
        f"<body>{body}<script>{script}</script></body></html>"
    )
    policy = (
        f"default-src 'none'; script-src '{fingerprint(script)}'; style-src '{fingerprint(STYLE)}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def fingerprint(text: str) -> str:
    """How a policy names an inline script or style (CSP level 3 §2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


INVITATION_PAGE: Final = page("Invitation", INVITATION, INVITATION_SCRIPT)
SWITCH_PAGE: Final = page("Workspaces", SWITCH, SWITCH_SCRIPT)


def page_reply(made: tuple[bytes, str]) -> Reply:
    """A page as a reply. No referrer: an invitation's address is a secret."""
    body, policy = made
    reply = Reply(200, body=body)
    reply.headers["Content-Type"] = "text/html; charset=utf-8"
    reply.headers["Content-Security-Policy"] = policy
    reply.headers["Referrer-Policy"] = "no-referrer"
    reply.headers["Cache-Control"] = "no-store"
    reply.headers["Vary"] = "Accept"
    return reply


def wants_page(exchange: Exchange) -> bool:
    """Whether a browser goes to an address, as opposed to a script that calls it."""
    return "text/html" in exchange.request.headers.get("Accept", "").lower()
