"""E-mail by SMTP, in a thread: smtplib blocks."""

from __future__ import annotations

import contextlib
import smtplib
import socket
from email.message import EmailMessage
from email.utils import formatdate

from sensor.channels.files import Email
from sensor.channels.message import Message
from sensor.channels.sender import Worker, reason, tls_context
from sensor.errors import DeliveryError

_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_SUBJECT_MAX = 200


class MailSender:
    """See ``Sender``."""

    def __init__(self, channel: Email) -> None:
        self._channel = channel
        self._worker = Worker()
        self._smtp: smtplib.SMTP | None = None

    async def send(self, message: Message) -> str:
        """See ``Sender.send``."""
        return await self._worker.run(lambda: self._deliver(message), abort=self._abort)

    async def close(self) -> None:
        """See ``Sender.close``."""
        self._abort()

    def _abort(self) -> None:
        """End a conversation that takes too long: its thread sees the connection break."""
        connection = getattr(self._smtp, "sock", None)
        if connection is not None:
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)

    def _deliver(self, message: Message) -> str:
        try:
            with contextlib.ExitStack() as stack:
                smtp = self._connect()
                # Without waiting for an answer to QUIT: the message is with the server by then.
                stack.callback(smtp.close)
                refused = smtp.send_message(self._mail(message))
        except smtplib.SMTPRecipientsRefused as error:
            raise DeliveryError(
                f"every recipient was refused: {_first(error.recipients)}"
            ) from error
        except smtplib.SMTPResponseException as error:
            raise DeliveryError(
                f"SMTP {error.smtp_code}: {_text(error.smtp_error)}",
                only_this=isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 500,
            ) from error
        except smtplib.SMTPException as error:
            raise DeliveryError(f"SMTP: {error}") from error
        except OSError as error:
            raise DeliveryError(f"SMTP: {reason(error)}") from error
        finally:
            self._smtp = None
        return f"refused for {_first(refused)}" if refused else ""

    def _connect(self) -> smtplib.SMTP:
        channel = self._channel
        port = channel.port or _PORTS[channel.tls]
        if channel.tls == "tls":
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                channel.host, port, timeout=channel.timeout, context=tls_context(channel.ca_file)
            )
        else:
            smtp = smtplib.SMTP(channel.host, port, timeout=channel.timeout)
        self._smtp = smtp
        try:
            if channel.tls == "starttls":
                smtp.starttls(context=tls_context(channel.ca_file))
            if channel.username is not None and channel.password is not None:
                smtp.login(channel.username, channel.password.read())
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        title = " ".join(message.title().split())
        mail["Subject"] = f"[rote] {title[:_SUBJECT_MAX]}"
        mail["From"] = self._channel.sender
        mail["To"] = ", ".join(self._channel.to)
        mail["Date"] = formatdate(message.last_ns / 1e9)
        # The same for the same message, so that a second copy can be told.
        name = "".join(c if c.isalnum() or c in "-." else "-" for c in message.uid)
        mail["Message-ID"] = f"<rote.{name}@{self._channel.sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail["X-Rote-Id"] = message.uid
        mail.set_content(message.text())
        return mail


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _first(recipients: dict[str, tuple[int, bytes]]) -> str:
    address, (code, text) = next(iter(recipients.items()))
    others = f" and {len(recipients) - 1} more" if len(recipients) > 1 else ""
    return f"{address}{others}: {code} {_text(text)}"
