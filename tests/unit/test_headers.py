"""What is asserted about the kernel's structures, from bpftool's raw dump."""

from __future__ import annotations

from sensor.kernel.headers import layout_assertions

_RAW = """\
[1] STRUCT 'mnt_namespace' size=384 vlen=2
	'ns' type_id=7 bits_offset=0
	'root' type_id=8 bits_offset=2048
[2] STRUCT 'inode' size=616 vlen=1
	'i_ino' type_id=9 bits_offset=512
[3] STRUCT 'dentry' size=192 vlen=1
	'd_parent' type_id=9 bits_offset=192
[4] STRUCT 'unrelated' size=8 vlen=1
	'x' type_id=9 bits_offset=0
"""


def test_offsets_are_asserted() -> None:
    """Of every member of a structure that is read."""
    text = layout_assertions(_RAW)
    assert "__builtin_offsetof(struct dentry, d_parent) == 24" in text
    assert "__builtin_offsetof(struct inode, i_ino) == 64" in text
    assert "unrelated" not in text


def test_what_stands_behind_an_aligned_member_is_not() -> None:
    """BTF does not tell its alignment (7.2: ns_common), and it is not read."""
    text = layout_assertions(_RAW)
    assert "__builtin_offsetof(struct mnt_namespace, ns) == 0" in text
    assert "mnt_namespace, root" not in text


def test_sizes_are_asserted_where_they_are_used() -> None:
    """What stands behind an inode is read; nothing behind a dentry is."""
    text = layout_assertions(_RAW)
    assert "sizeof(struct inode) == 616" in text
    assert "sizeof(struct dentry)" not in text
    assert "sizeof(struct mnt_namespace)" not in text
