"""What this kernel permits, found out by trying."""

from __future__ import annotations

import ctypes
import os
import struct

from sensor.kernel import bpf

_TRACING, _LSM = 26, 29  # enum bpf_prog_type
_MODIFY_RETURN, _LSM_MAC = 26, 27  # enum bpf_attach_type
# The program: return zero.
_RETURN_ZERO = bytes.fromhex("b7000000000000009500000000000000")


def trampolines_refused() -> str | None:
    """Why fmod_ret programs cannot be loaded here, or None when they can.

    Loads a program of two instructions for ``security_file_open`` and lets it go again; nothing
    is attached.
    """
    return _load_refused(_TRACING, _MODIFY_RETURN, b"security_file_open")


def lsm_refused() -> str | None:
    """Why BPF LSM programs cannot be loaded here, or None when they can."""
    return _load_refused(_LSM, _LSM_MAC, b"file_open")


def _load_refused(program_type: int, attach_type: int, function: bytes) -> str | None:
    try:
        libbpf = ctypes.CDLL("libbpf.so.1")
    except OSError:
        return "libbpf.so.1 is not installed (apt-get install libbpf1)"
    btf_id = libbpf.libbpf_find_vmlinux_btf_id(function, attach_type)
    if btf_id <= 0:
        return f"the kernel's type information has no {function.decode()}"
    instructions = ctypes.create_string_buffer(_RETURN_ZERO, len(_RETURN_ZERO))
    licence = ctypes.create_string_buffer(b"GPL")
    attr = ctypes.create_string_buffer(bpf.ATTR_SIZE)
    struct.pack_into(
        "=IIQQ", attr, 0, program_type, 2, ctypes.addressof(instructions), ctypes.addressof(licence)
    )
    struct.pack_into("=I", attr, 68, attach_type)
    struct.pack_into("=I", attr, 108, btf_id)
    try:
        os.close(bpf.call(bpf.PROG_LOAD, attr))
    except OSError as error:
        return f"loading a program that needs a trampoline: {error.strerror}"
    return None
