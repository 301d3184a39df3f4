"""Raw disk images that a stock kernel can use without an initrd."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from tests.vm.host import call

SIGNATURE = 0x524F5445  # "ROTE"; the kernel finds the root by it, whatever number NVMe gives out
_START = 2048  # sectors of 512 bytes: the usual 1 MiB
_MIB = 1 << 20


def tree_size(tree: Path) -> int:
    """Bytes that a directory takes on disk."""
    return sum(
        os.lstat(Path(folder) / name).st_blocks * 512
        for folder, folders, files in os.walk(tree)
        for name in [*folders, *files]
    )


def make_image(tree: Path, image: Path, *, spare_mib: int, partition: bool) -> None:
    """Pack a directory into a sparse raw image with ext4.

    Args:
        tree: what the file system holds.
        image: the file to write.
        spare_mib: room to leave, in MiB.
        partition: with a partition table, so that ``root=PARTUUID=`` finds it.

    Raises:
        VmError: mke2fs failed.
    """
    size_mib = tree_size(tree) * 11 // 10 // _MIB + spare_mib
    with image.open("wb") as file:
        if partition:
            table = bytearray(512)
            struct.pack_into("<I", table, 440, SIGNATURE)
            struct.pack_into(
                "<B3sB3sII", table, 446, 0, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff",
                _START, size_mib * 2048,
            )  # fmt: skip
            table[510:] = b"\x55\xaa"
            file.write(table)
        file.truncate((size_mib + 1) * _MIB)
    offset = _START * 512 if partition else 0
    # No journal: an image is never written to; what a guest writes goes into a scratch file.
    options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-i", "16384"]
    call(
        ["mke2fs", *options, "-E", f"offset={offset}", "-d", tree, image, f"{size_mib}M"],
        what=f"packing {image.name}",
    )
