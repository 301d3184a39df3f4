"""Programs that do nothing, on the hooks that Rote uses: what merely being there costs.

Loaded in a process of their own, because BCC detaches what it attached when that process ends.
Says "ready" and waits for the end of its standard input.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from sensor.kernel import bpf
from sensor.kernel.headers import header_tree
from sensor.kernel.unit import unit_text

_HOOK = re.compile(r"^HOOK\((\w+)", re.MULTILINE)
_TRACEPOINT = re.compile(r"^RAW_TRACEPOINT_PROBE\((\w+)\)", re.MULTILINE)
_NOT_ATTACHED = {"sys_exit", "task_rename"}  # of the tracepoint attachment; of the self-test
_ON_EACH_WRITE = "file_permission"


def main() -> None:
    """Load, attach, wait."""
    text = unit_text()
    hooks = [*dict.fromkeys(_HOOK.findall(text)), "bprm_check_security"]
    if "--write" not in sys.argv[1:]:
        hooks.remove(_ON_EACH_WRITE)
    tracepoints = [name for name in _TRACEPOINT.findall(text) if name not in _NOT_ATTACHED]
    os.environ["BCC_KERNEL_SOURCE"] = str(header_tree(Path("/run/rote-bench-cache")))
    from bcc import BPF

    BPF._trace_autoload = lambda _: None
    source = "".join(f"LSM_PROBE({name}) {{ return 0; }}\n" for name in hooks)
    source += "".join(f"RAW_TRACEPOINT_PROBE({name}) {{ return 0; }}\n" for name in tracepoints)
    module = BPF(text=source, cflags=["-ffine-grained-bitfield-accesses"])
    links = []
    for hook in hooks:
        try:
            program = module.load_func(f"lsm__{hook}".encode(), BPF.LSM)
        except Exception as error:  # noqa: BLE001 - bcc raises the bare class
            sys.stderr.write(f"empty: {hook}: {error}\n")  # this kernel has no such hook
            continue
        links.append(bpf.attach(program.fd))
    for name in tracepoints:
        program = module.load_func(f"raw_tracepoint__{name}".encode(), BPF.RAW_TRACEPOINT)
        links.append(bpf.attach(program.fd, name))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
