"""Sends mail: over SMTP, or into a folder and the log while developing. A queue sends and retries."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import aiosmtplib

from geko_proxy.background import Background
from geko_proxy.errors import GekoError

if TYPE_CHECKING:
    from geko_proxy.config import Settings

log = logging.getLogger("geko.mail")

SEND_TIMEOUT_S = 20.0
RETRY_AFTER_S: Final = (2.0, 15.0, 60.0, 300.0)
MAX_WAITING: Final = 1000
DRAIN_S: Final = 10.0


class MailError(GekoError):
    """A mail could not be handed over. for_good: trying again is of no use."""

    def __init__(self, text: str, *, for_good: bool = False) -> None:
        super().__init__(text)
        self.for_good = for_good


class Mailer(Protocol):
    """Sends mail."""

    async def send(self, to: str, subject: str, text: str) -> None:
        """Hand over one mail of plain text. Raises MailError."""


class SmtpMailer:
    """Sends over an SMTP server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.mail
        self._context = ssl.create_default_context(cafile=settings.mail.smtp_ca_file or None)

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
                tls_context=None if given.smtp_security == "none" else self._context,
                timeout=SEND_TIMEOUT_S,
            )
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise MailError(
                f"the mail server did not take a mail: {type(error).__name__}", for_good=is_for_good(error)
            ) from error


class MailFolder:
    """For development: writes each mail into a folder and the log instead of sending it."""

    def __init__(self, folder: Path, sender: str) -> None:
        self._folder = folder
        self._sender = sender

    async def send(self, to: str, subject: str, text: str) -> None:
        try:
            mail = message(self._sender, to, subject, text)
            await asyncio.to_thread(self._write, mail)
        except ValueError as error:
            raise MailError("the mail has a malformed header", for_good=True) from error
        except OSError as error:
            raise MailError(f"the mail folder can't be written: {error.strerror}") from error
        log.info("mail to %s: %s\n%s", to, subject, text)

    def _write(self, mail: EmailMessage) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = mail["Message-ID"].strip("<>").replace("/", "_")
        descriptor = os.open(self._folder / f"{name}.eml", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:  # a link in it opens an account: nobody else may read it
            file.write(bytes(mail))


class MailQueue:
    """Takes mails at once and sends them in the background, four at a time; tries again when the server is away.

    retry_after_s: the waits between the attempts.
    """

    def __init__(self, mailer: Mailer, retry_after_s: Sequence[float] = RETRY_AFTER_S) -> None:
        self._mailer = mailer
        self._retry_after_s = retry_after_s
        # those who wait for another attempt must not keep the others from their first
        self._background = Background(at_once=MAX_WAITING, at_most=MAX_WAITING)
        self._free = asyncio.Semaphore(4)
        self._stopping = asyncio.Event()

    async def send(self, to: str, subject: str, text: str) -> None:
        """Take a mail. Raises MailError when too many are waiting."""
        if not self._background.submit(f"mail: {subject}", lambda: self._deliver(to, subject, text)):
            raise MailError("too many mails are waiting")

    async def stop(self, timeout_s: float = DRAIN_S) -> None:
        """Take nothing more; give every waiting mail one last attempt."""
        self._stopping.set()
        await self._background.stop(timeout_s)

    async def idle(self) -> None:
        """Wait until every mail was sent or given up."""
        await self._background.idle()

    async def _deliver(self, to: str, subject: str, text: str) -> None:
        for number, wait_s in enumerate((*self._retry_after_s, None), 1):
            try:
                async with self._free:
                    await self._mailer.send(to, subject, text)
            except MailError as error:
                is_last = wait_s is None or error.for_good or (self._stopping.is_set() and number > 1)
                level = logging.ERROR if is_last else logging.WARNING
                log.log(level, "%s: attempt %d%s", error, number, ", given up" if is_last else "")
                if is_last:
                    return
                await self._wait(wait_s or 0)
            else:
                return

    async def _wait(self, seconds: float) -> None:
        """Until the next attempt; a stop ends the wait."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def open_mailer(settings: Settings) -> MailQueue | None:
    """The queue in front of the mailer of these settings; None: mail is off."""
    kind = settings.mail.transport
    if kind == "smtp":
        return MailQueue(SmtpMailer(settings))
    if kind == "folder":
        return MailQueue(MailFolder(settings.server.home / "mail", settings.mail.sender))
    return None


def is_for_good(error: Exception) -> bool:
    """Whether the server will say the same again (RFC 5321 §4.2.1: codes from 500 on)."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return all(each.code >= 500 for each in error.recipients)
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return error.code >= 500
    return isinstance(error, ValueError)


def message(sender: str, to: str, subject: str, text: str) -> EmailMessage:
    """A mail of plain text. Raises ValueError for line breaks in headers (the email library's check)."""
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = to
    mail["Subject"] = subject
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=parseaddr(sender)[1].partition("@")[2] or "localhost")
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
