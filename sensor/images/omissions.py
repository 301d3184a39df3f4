"""What of an image was not read, and how its names may be shown."""

from __future__ import annotations

from sensor.errors import ImageError
from sensor.images.package import Omission

_LISTED_MAX = 200  # one by one; beyond that they are counted


class Omissions:
    """What was left out: once each, and not without end."""

    def __init__(self) -> None:
        self._listed: dict[Omission, None] = {}
        self._more = 0
        self.final = True  # reading again would leave out the same

    def add(self, location: str, reason: str | Exception, *, final: bool = True) -> None:
        """Note one.

        Args:
            location: path in the image, or "".
            reason: one line, or the error.
            final: whether it is the image's fault, so that reading again would not help.
        """
        if isinstance(reason, OSError):
            reason, final = f"not read: {reason.strerror}", False
        elif isinstance(reason, ImageError) and isinstance(reason.__cause__, OSError):
            final = False
        self.final = self.final and final
        entry = Omission(printable(location), printable(str(reason)))
        if entry in self._listed:
            return
        if len(self._listed) >= _LISTED_MAX:
            self._more += 1
        else:
            self._listed[entry] = None

    def all(self) -> tuple[Omission, ...]:
        """Everything noted, in order of place."""
        found = sorted(self._listed)
        if self._more:
            found.append(Omission("", f"{self._more} more were not read or read in part"))
        return tuple(found)


def printable(text: str | bytes) -> str:
    """Text from an image as it may be shown and written as JSON: no control characters.

    Args:
        text: a path with undecodable bytes as surrogates, or raw bytes.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable()
        else f"\\x{ord(char) - 0xDC00:02x}"
        if 0xDC80 <= ord(char) <= 0xDCFF
        else char.encode("unicode_escape").decode()
        for char in text
    )
