"""Which programs a running container's image holds."""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import Self

from sensor.reading import READ, Root


class ImagePrograms:
    """The files below a container's root, as the container sees them now.

    Args:
        pid: its first process.

    Raises:
        OSError: it has ended, or has no root of its own (yet).
    """

    def __init__(self, pid: int) -> None:
        self._root = Root(f"/proc/{pid}/root")
        own, host = self._root.stat(), os.stat("/")  # noqa: PTH116 - the same call on both
        if (own.st_dev, own.st_ino) == (host.st_dev, host.st_ino):
            self._root.close()
            raise OSError(errno.EAGAIN, "the process has the host's root", f"/proc/{pid}/root")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._root.close()

    def exist(self, path: str) -> bool:
        """Whether an ordinary file lies at a path, behind no symbolic link and no mount."""
        try:
            fd = self._root.open(path, READ)
        except OSError as error:
            # What cannot be looked at (too many files are open, say) is not therefore gone.
            return error.errno not in (
                errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV,
            )  # fmt: skip
        try:
            return stat.S_ISREG(os.fstat(fd).st_mode)
        finally:
            os.close(fd)
