"""Kernel headers out of the running kernel's own BTF, so that none need to be installed.

BCC expects a kernel header tree. A small one is enough: ``vmlinux.h`` as bpftool writes it, with
four changes, and a dozen stubs that include it. The changes:

* CO-RE attributes go, since BCC does no relocation;
* the unnamed bit-fields that stand for alignment holes get names, because clang before 18
  misplaces whatever follows them (iovisor/bcc#4890);
* enums that the kernel packs into a byte or two are packed here as well, which older bpftools
  leave out;
* structures that the programs only point to are cut down to declarations, which halves the time
  to parse.

Whether the result is right is not left to hope: sizes and offsets of everything the programs look
into are asserted against the BTF at compile time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sensor.errors import KernelSupportError
from sensor.kernel.helper_ids import HELPER_IDS
from sensor.kernel.unit import fingerprint

BTF = Path("/sys/kernel/btf/vmlinux")
_VERSION = 8  # of what is made here; part of the cache key

# Structures the programs look into. What these hold by value is kept too.
ROOTS = (
    "bpf_raw_tracepoint_args", "cgroup", "cgroup_root", "cgroup_subsys_state", "css_set", "dentry",
    "fdtable", "file", "files_struct", "fs_struct", "inode", "kernfs_node", "linux_binprm",
    "mm_struct", "mnt_namespace", "mount", "ns_common", "nsproxy", "path", "pt_regs",
    "signal_struct", "super_block", "task_struct", "thread_info", "vfsmount", "vm_area_struct",
    "bpf_map_def", "bpf_map", "bpf_prog", "bpf_prog_aux", "bpf_stack_build_id",
    "__sk_buff", "sk_buff", "bpf_perf_event_data", "xdp_md",
)  # fmt: skip
# Those of which the size matters: what stands behind them is read.
SIZED = ("file", "inode", "pt_regs")
# Those of which only the beginning is read; what follows may be laid out otherwise.
BEGINNINGS = {"mnt_namespace": ("ns",)}

_STUBS = (
    "linux/types", "linux/log2", "linux/if_vlan", "linux/bpf", "asm/page", "uapi/linux/bpf",
    "uapi/linux/bpf_perf_event", "uapi/linux/types", "uapi/linux/ptrace", "uapi/linux/if_packet",
    "uapi/linux/in",
)  # fmt: skip
_EMPTY = ("if_ether", "ip", "tcp", "udp", "ipv6", "icmp")

_KCONFIG = """\
#define PAGE_SIZE 4096
#define __always_inline inline __attribute__((always_inline))
#ifndef NULL
#define NULL ((void *)0)
#endif
#define _UAPI__LINUX_BPF_H__
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_ARCH_HAS_SYSCALL_WRAPPER 1
#define CONFIG_CC_STACKPROTECTOR 1
#include "vmlinux.h"
#include "helper_ids.h"
#ifndef ROTE_LAYOUT_ASSERTED
#define ROTE_LAYOUT_ASSERTED
#include "layout_assertions.h"
#endif
"""


def btf_bytes() -> bytes:
    """The running kernel's BTF.

    Raises:
        KernelSupportError: the kernel was built without it.
    """
    try:
        return BTF.read_bytes()
    except OSError as error:
        raise KernelSupportError(
            f"{BTF}: {error.strerror}; expected this kernel's type information "
            "(CONFIG_DEBUG_INFO_BTF=y, kernels of Debian 11, Ubuntu 20.10 and later have it)"
        ) from error


def header_tree(cache: Path, btf: bytes | None = None) -> Path:
    """The header tree for the running kernel, made on first use and kept under ``cache``.

    The key is the BTF itself, not the kernel's name: two builds may share a name.
    """
    btf = btf if btf is not None else btf_bytes()
    tree = cache / f"headers-{fingerprint(btf, str(_VERSION))}"
    if (tree / "include/vmlinux.h").exists():
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".headers-", dir=cache))
    try:
        raw = _dump("raw")
        _write_tree(scratch, adapt(_dump("c"), packed_enums(raw)), layout_assertions(raw))
        scratch.chmod(0o755)
        try:
            scratch.rename(tree)
        except OSError:
            if not (tree / "include/vmlinux.h").exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return tree


def _dump(form: str) -> str:
    bpftool = find_bpftool()
    if bpftool is None:
        raise KernelSupportError(
            "bpftool: not found; expected it to read the kernel's types: "
            "apt-get install bpftool (Ubuntu: linux-tools-generic)"
        )
    result = subprocess.run(
        [bpftool, "btf", "dump", "file", str(BTF), "format", form],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if result.returncode != 0 or "task_struct" not in result.stdout:
        raise KernelSupportError(
            f"bpftool btf dump {BTF}: {result.stderr.strip() or 'no struct task_struct in it'}; "
            "expected the kernel's types"
        )
    return result.stdout


def find_bpftool() -> str | None:
    """A bpftool that works.

    Ubuntu's is a wrapper that wants the tools of the running kernel; any other version does.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    candidates = [shutil.which("bpftool", path=path)]
    candidates.extend(str(p) for p in sorted(Path("/usr/lib").glob("linux-tools*/**/bpftool")))
    for candidate in filter(None, candidates):
        result = subprocess.run(
            [candidate, "version"], capture_output=True, timeout=20, check=False
        )
        if result.returncode == 0:
            return candidate
    return None


def packed_enums(raw: str) -> list[str]:
    """Names of the enums that take less than four bytes, from bpftool's raw dump."""
    return re.findall(r"(?m)^\[\d+\] ENUM '(\w+)' .*\bsize=[12]\b", raw)


def layout_assertions(raw: str) -> str:
    """C that fails to compile where a structure in ROOTS is laid out otherwise than in the BTF.

    Sizes of those in SIZED only: BTF does not say what is aligned, so a structure may come out
    shorter at its end.
    """
    lines: list[str] = []
    name = ""
    seen: set[str] = set()
    for line in raw.split("\n"):
        if match := re.match(r"\[\d+\] STRUCT '(\w+)' size=(\d+)", line):
            name = match.group(1)
            if name not in ROOTS or name in seen:
                name = ""
                continue
            seen.add(name)
            if name in SIZED:
                lines.append(
                    f'_Static_assert(sizeof(struct {name}) == {match.group(2)}, "{name}");'
                )
        elif line.startswith("["):
            name = ""
        elif name and (match := re.match(r"\s+'(\w+)' .*bits_offset=(\d+)$", line)):
            field, bits = match.group(1), int(match.group(2))
            if field not in BEGINNINGS.get(name, (field,)):
                continue
            lines.append(
                f"_Static_assert(__builtin_offsetof(struct {name}, {field}) == {bits // 8}, "
                f'"{name}.{field}");'
            )
    return "\n".join(lines) + "\n"


def adapt(vmlinux: str, packed: Iterable[str] = ()) -> str:
    """Make bpftool's output fit for BCC; see the module's text.

    Args:
        vmlinux: C declarations as bpftool writes them.
        packed: names of enums that take less than four bytes.
    """
    text = "\n".join(
        line
        for line in vmlinux.split("\n")
        if "preserve_access_index" not in line and "pragma clang attribute pop" not in line
    )
    holes = 0

    def name_hole(match: re.Match[str]) -> str:
        nonlocal holes
        holes += 1
        return f"{match.group(1)}long hole_{holes};"

    text = re.sub(r"(?m)^(\s+)long: 64;", name_hole, text)
    for name in packed:
        text = re.sub(
            rf"(?ms)^(enum {name} \{{.*?\n\}})( __attribute__\(\(mode\(\w+\)\)\))?;",
            r"\1 __attribute__((packed));",
            text,
            count=1,
        )
    return prune(text, ROOTS)


def prune(text: str, roots: tuple[str, ...]) -> str:
    """Cut structures down to declarations unless ``roots`` hold them by value."""
    items = _items(text)
    bodies: dict[tuple[str, str], int] = {}
    typedefs: dict[str, tuple[str, str]] = {}
    for i, item in enumerate(items):
        if match := re.match(r"(struct|union) (\w+) \{", item):
            bodies[match.group(1), match.group(2)] = i
        elif match := re.match(r"typedef (struct|union) (\w+) (\w+)(\[\d+\])?;", item):
            typedefs[match.group(3)] = match.group(1), match.group(2)
    wanted = [key for key in bodies if key[1] in roots]
    for item in items:
        if item.startswith(("typedef struct {", "typedef union {")):
            wanted.extend(_by_value(item, typedefs))
        elif match := re.match(r"typedef (?:(struct|union) )?(\w+) \w+\[\d+\];", item):
            kind, name = match.groups()
            wanted.extend([(kind, name)] if kind else [typedefs[name]] if name in typedefs else [])
    kept: set[tuple[str, str]] = set()
    while wanted:
        key = wanted.pop()
        if key in bodies and key not in kept:
            kept.add(key)
            wanted.extend(_by_value(items[bodies[key]], typedefs))
    dropped = {i for key, i in bodies.items() if key not in kept}
    declarations = [f"{kind} {name};" for (kind, name), i in bodies.items() if i in dropped]
    return "\n".join(declarations + [item for i, item in enumerate(items) if i not in dropped])


def _items(text: str) -> list[str]:
    items: list[str] = []
    current: list[str] = []
    depth = 0
    for line in text.split("\n"):
        if not current and (line.startswith("#") or not line.strip()):
            items.append(line)
            continue
        current.append(line)
        depth += line.count("{") - line.count("}")
        if depth == 0 and line.rstrip().endswith(";"):
            items.append("\n".join(current))
            current = []
    items.extend(current)
    return items


def _by_value(body: str, typedefs: dict[str, tuple[str, str]]) -> list[tuple[str, str]]:
    found = [
        (match.group(1), match.group(2))
        for match in re.finditer(
            # Also without a name of its own: an anonymous member, by -fms-extensions.
            r"(?m)^\s+(?:const |volatile )*(struct|union) (\w+)(?: \w|;)",
            body,
        )
    ]
    found.extend(
        typedefs[match.group(1)]
        for match in re.finditer(r"(?m)^\s+(?:const |volatile )*(\w+) (\w+)", body)
        if match.group(1) in typedefs
    )
    return found


def _write_tree(tree: Path, vmlinux: str, assertions: str) -> None:
    include = tree / "include"
    release = os.uname().release
    numbers = [int(n) for n in re.findall(r"\d+", release)[:2]]
    have = set(re.findall(r"\b(BPF_FUNC_\w+) = ", vmlinux))
    files = {
        "vmlinux.h": vmlinux,
        "layout_assertions.h": assertions,
        "linux/kconfig.h": _KCONFIG,
        "linux/version.h": (
            "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))\n"
            f"#define LINUX_VERSION_CODE KERNEL_VERSION({numbers[0]}, {numbers[1]}, 0)\n"
        ),
        # BCC names every helper it knows; the ids are stable, the enum of an older kernel is not.
        "helper_ids.h": "".join(
            f"#define {name} ((enum bpf_func_id){number})\n"
            for number, name in enumerate(HELPER_IDS)
            if name not in have
        ),
    }
    files.update({f"{name}.h": '#include "vmlinux.h"\n' for name in _STUBS})
    files.update({f"uapi/linux/{name}.h": "" for name in _EMPTY})
    for name, content in files.items():
        path = include / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (tree / "arch/x86/include").mkdir(parents=True, exist_ok=True)
