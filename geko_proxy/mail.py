"""Sends mail: over SMTP, or into a folder and the log while developing."""

from __future__ import annotations

import asyncio
import logging
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import aiosmtplib

from geko_proxy.errors import GekoError

if TYPE_CHECKING:
    from geko_proxy.config import Settings

log = logging.getLogger("geko.mail")

SEND_TIMEOUT_S = 20.0


class MailError(GekoError):
    """A mail could not be handed over."""


class Mailer(Protocol):
    """Sends mail."""

    async def send(self, to: str, subject: str, text: str) -> None:
        """Hand over one mail of plain text. Raises MailError."""


class SmtpMailer:
    """Sends over an SMTP server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.mail

    async def send(self, to: str, subject: str, text: str) -> None:
        given = self._settings
        try:
            await aiosmtplib.send(
                message(given.sender, to, subject, text),
                hostname=given.smtp_host,
                port=given.smtp_port,
                username=given.smtp_username or None,
                password=given.smtp_password or None,
                use_tls=given.smtp_security == "tls",
                start_tls=given.smtp_security == "starttls",
                timeout=SEND_TIMEOUT_S,
            )
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise MailError(f"the mail server did not take a mail: {type(error).__name__}") from error


class MailFolder:
    """For development: writes each mail into a folder and the log instead of sending it."""

    def __init__(self, folder: Path, sender: str) -> None:
        self._folder = folder
        self._sender = sender

    async def send(self, to: str, subject: str, text: str) -> None:
        mail = message(self._sender, to, subject, text)
        await asyncio.to_thread(self._write, mail)
        log.info("mail to %s: %s\n%s", to, subject, text)

    def _write(self, mail: EmailMessage) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = mail["Message-ID"].strip("<>").replace("/", "_")
        (self._folder / f"{name}.eml").write_bytes(bytes(mail))


def open_mailer(settings: Settings) -> Mailer | None:
    """The mailer of these settings; None: mail is off."""
    kind = settings.mail.transport
    if kind == "smtp":
        return SmtpMailer(settings)
    if kind == "folder":
        return MailFolder(settings.server.home / "mail", settings.mail.sender)
    return None


def message(sender: str, to: str, subject: str, text: str) -> EmailMessage:
    """A mail of plain text. Raises ValueError for line breaks in headers (the email library's check)."""
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = to
    mail["Subject"] = subject
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2].strip("> ") or "localhost")
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834
    mail.set_content(text)
    return mail


def link_base(settings: Settings) -> str:
    """Where links in mails lead: never to what a request's Host header says, which anybody can write."""
    server = settings.server
    return (
        server.public_url
        or f"http://{'localhost' if server.host == '0.0.0.0' else server.host}:{server.port}"
    )
