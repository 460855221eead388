"""Mail over a real SMTP server, plain and encrypted; the queue in front of it; the folder for developers."""

from __future__ import annotations

import asyncio
import datetime as dt
import email
import email.policy
import ipaddress
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from geko_proxy.config import Settings
from geko_proxy.config.people_settings import MailSettings
from geko_proxy.config.settings import ServerSettings
from geko_proxy.errors import ConfigError
from geko_proxy.mail import MailError, MailFolder, MailQueue, SmtpMailer, link_base, message, open_mailer

PASSWORD = "s3cret of the mail account"


class Server:
    """Keeps mails; answers with `replies` first. tls: of each mail, whether it came encrypted."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.tls: list[bool] = []
        self.replies: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.replies:
            return self.replies.pop(0)
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.tls.append(server.transport is not None and bool(server.transport.get_extra_info("ssl_object")))
        return "250 OK"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return path


def log_in(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    assert isinstance(data, LoginPassword)
    right = data.login == b"geko" and data.password == PASSWORD.encode()
    return AuthResult(success=right, handled=False)


class Smtp:
    """A running server and the settings to reach it."""

    def __init__(self, security: str, certificate: Path) -> None:
        self.handler = Server()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        port = free_port()
        options: dict[str, Any] = {"authenticator": log_in, "auth_required": security == "starttls"}
        if security == "tls":
            options |= {"ssl_context": context, "auth_require_tls": False}
        elif security == "starttls":
            options |= {"tls_context": context, "require_starttls": True}
        self.controller = Controller(self.handler, hostname="127.0.0.1", port=port, **options)
        self.settings = Settings(
            mail=MailSettings(
                transport="smtp",
                sender="GEKO <geko@example.org>",
                smtp_host="127.0.0.1",
                smtp_port=port,
                smtp_security=security,
                smtp_username="" if security == "none" else "geko",
                smtp_password="" if security == "none" else PASSWORD,
                smtp_ca_file=str(certificate),
            )
        )

    def with_mail(self, **changes: Any) -> Settings:
        return replace(self.settings, mail=replace(self.settings.mail, **changes))


@pytest.fixture(autouse=True)
async def connections_end() -> AsyncIterator[None]:
    """Let connections that were closed end before the test's loop does."""
    yield
    for _ in range(20):
        await asyncio.sleep(0.001)


@pytest.fixture(params=["none", "starttls", "tls"])
def smtp(request: pytest.FixtureRequest, certificate: Path) -> Iterator[Smtp]:
    server = Smtp(request.param, certificate)
    server.controller.start()
    yield server
    server.controller.stop()


@pytest.fixture
def plain(certificate: Path) -> Iterator[Smtp]:
    server = Smtp("none", certificate)
    server.controller.start()
    yield server
    server.controller.stop()


async def test_a_mail_arrives_encrypted_as_set(smtp: Smtp) -> None:
    await SmtpMailer(smtp.settings).send("ann@example.org", "Grüße", "Zeile 1\nhttps://x.example/?a=1&b=2\n")
    (mail,) = smtp.handler.mails
    assert (mail["From"], mail["To"], mail["Subject"]) == (
        "GEKO <geko@example.org>",
        "ann@example.org",
        "Grüße",
    )
    assert mail.get_content().replace("\r\n", "\n") == "Zeile 1\nhttps://x.example/?a=1&b=2\n"
    assert mail["Message-ID"].endswith("@example.org>")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert smtp.handler.tls == [smtp.settings.mail.smtp_security != "none"]


async def test_a_server_that_nobody_vouches_for_gets_nothing(smtp: Smtp) -> None:
    if smtp.settings.mail.smtp_security == "none":
        return
    with pytest.raises(MailError) as failed:
        await SmtpMailer(smtp.with_mail(smtp_ca_file="")).send("ann@example.org", "x", "x")
    assert PASSWORD not in str(failed.value)
    assert smtp.handler.mails == []
    with pytest.raises(MailError) as failed:
        await SmtpMailer(smtp.with_mail(smtp_password="wrong")).send("ann@example.org", "x", "x")
    assert failed.value.for_good


@pytest.mark.parametrize(
    ("reply", "for_good"), [("451 later", False), ("421 closing", False), ("550 no such user", True)]
)
async def test_what_is_worth_another_attempt(plain: Smtp, reply: str, for_good: bool) -> None:
    plain.handler.replies = [reply]
    with pytest.raises(MailError) as failed:
        await SmtpMailer(plain.settings).send("ann@example.org", "x", "x")
    assert failed.value.for_good is for_good
    with pytest.raises(MailError) as failed:
        await SmtpMailer(plain.with_mail(smtp_port=free_port())).send("ann@example.org", "x", "x")
    assert failed.value.for_good is False


async def test_headers_can_not_be_smuggled_in(plain: Smtp) -> None:
    for to, subject in (
        ("ann@example.org\r\nBcc: eve@example.org", "x"),
        ("ann@example.org", "x\nBcc: e@x.org"),
    ):
        with pytest.raises(MailError) as failed:
            await SmtpMailer(plain.settings).send(to, subject, "x")
        assert failed.value.for_good
    assert plain.handler.mails == []


async def test_the_queue_takes_at_once_and_tries_again(plain: Smtp) -> None:
    plain.handler.replies = ["451 later", "451 later"]
    queue = MailQueue(SmtpMailer(plain.settings), retry_after_s=(0.01, 0.01, 0.01))
    await queue.send("ann@example.org", "first", "x")
    assert plain.handler.mails == []
    await queue.idle()
    assert [mail["Subject"] for mail in plain.handler.mails] == ["first"]


async def test_the_queue_gives_up_for_good_or_after_the_last_attempt(
    plain: Smtp, caplog: pytest.LogCaptureFixture
) -> None:
    plain.handler.replies = ["550 no", *["451 later"] * 3]
    queue = MailQueue(SmtpMailer(plain.settings), retry_after_s=(0.01, 0.01))
    for _ in range(2):
        await queue.send("ann@example.org", "x", "the secret link")
        await queue.idle()
    assert plain.handler.mails == []
    assert plain.handler.replies == []
    assert caplog.text.count("given up") == 2
    assert "the secret link" not in caplog.text


async def test_a_stop_gives_each_waiting_mail_one_more_attempt(plain: Smtp) -> None:
    plain.handler.replies = ["451 later"]
    queue = MailQueue(SmtpMailer(plain.settings), retry_after_s=(3600,))
    await queue.send("ann@example.org", "kept", "x")
    while plain.handler.replies:
        await asyncio.sleep(0.01)
    await queue.stop(10)
    assert [mail["Subject"] for mail in plain.handler.mails] == ["kept"]
    with pytest.raises(MailError):
        await queue.send("ann@example.org", "too late", "x")


async def test_the_folder_is_the_owners_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "geko.mail")
    folder = MailFolder(tmp_path / "mail", "GEKO <geko@localhost>")
    await folder.send("ann@example.org", "Hello", "a link")
    (path,) = (tmp_path / "mail").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert b"a link" in path.read_bytes()
    assert "a link" in caplog.text


async def test_the_transport_is_a_setting(tmp_path: Path) -> None:
    assert open_mailer(Settings()) is None
    settings = Settings(server=ServerSettings(home=tmp_path), mail=MailSettings(transport="folder"))
    queue = open_mailer(settings)
    assert queue is not None
    await queue.send("ann@example.org", "x", "x")
    await queue.stop()
    assert len(list((tmp_path / "mail").iterdir())) == 1


@pytest.mark.parametrize(
    ("mail", "public_url", "problem"),
    [
        ({}, "https://x.example", "mail.smtp_host: needed"),
        ({"smtp_host": "mail.example"}, "", "server.public_url: needed"),
        ({"sender": "nobody"}, "https://x.example", "mail.sender: "),
        (
            {"smtp_host": "m", "smtp_password": "p", "smtp_security": "none"},
            "https://x.example",
            "unencrypted",
        ),
        ({"smtp_host": "m", "smtp_ca_file": "/nowhere.pem"}, "https://x.example", "mail.smtp_ca_file: "),
    ],
)
def test_settings_that_can_not_work(mail: dict[str, Any], public_url: str, problem: str) -> None:
    given = MailSettings(transport="smtp", **mail)
    settings = Settings(server=ServerSettings(public_url=public_url), mail=given)
    with pytest.raises(ConfigError, match=problem):
        settings.require_serving()


def test_links_never_lead_where_a_request_says() -> None:
    assert link_base(Settings(server=ServerSettings(public_url="https://x.example"))) == "https://x.example"
    assert link_base(Settings()) == "http://127.0.0.1:3002"
    assert link_base(Settings(server=ServerSettings(host="0.0.0.0"))) == "http://localhost:3002"


def test_a_sender_without_a_domain_has_a_message_id() -> None:
    assert message("root", "ann@example.org", "x", "x")["Message-ID"].endswith("@localhost>")
