"""MITRE ATT&CK techniques, where the deviation itself shows one. Nothing is guessed.

Names and numbers: ATT&CK for Enterprise, matrix Containers and Linux.
"""

from __future__ import annotations

from sensor.audits.audit import AuditType
from sensor.events import Event, EventKind, Operation

TECHNIQUES = {
    "T1059.004": "Unix Shell",
    "T1059.006": "Python",
    "T1105": "Ingress Tool Transfer",
    "T1095": "Non-Application Layer Protocol",
    "T1620": "Reflective Code Loading",
    "T1036": "Masquerading",
    "T1609": "Container Administration Command",
    "T1053.003": "Cron",
    "T1098.004": "SSH Authorized Keys",
    "T1574.006": "Dynamic Linker Hijacking",
    "T1136.001": "Local Account",
    "T1222.002": "Linux and Mac File and Directory Permissions Modification",
    "T1070.004": "File Deletion",
    "T1548.001": "Setuid and Setgid",
    "T1543.002": "Systemd Service",
    "T1611": "Escape to Host",
    "T1046": "Network Service Discovery",
}

# Programs whose very execution is the technique.
_PROGRAMS = {
    **dict.fromkeys(("sh", "bash", "dash", "ash", "zsh", "ksh"), "T1059.004"),
    **dict.fromkeys(("python", "python3"), "T1059.006"),
    **dict.fromkeys(("curl", "wget", "scp", "sftp", "tftp", "ftpget"), "T1105"),
    **dict.fromkeys(("nc", "ncat", "netcat", "socat"), "T1095"),
    **dict.fromkeys(("nmap", "masscan", "zmap"), "T1046"),
    **dict.fromkeys(("nsenter", "chroot"), "T1611"),
}
# Places whose change is the technique; the longest prefix counts.
_PLACES = (
    ("/etc/cron", "T1053.003"),
    ("/var/spool/cron", "T1053.003"),
    ("/etc/ld.so", "T1574.006"),
    ("/etc/systemd", "T1543.002"),
    ("/etc/passwd", "T1136.001"),
    ("/etc/shadow", "T1136.001"),
    ("/proc/sys/kernel/core_pattern", "T1611"),
)


def techniques(event: Event, audit_type: AuditType) -> tuple[str, ...]:
    """ATT&CK ids that this deviation shows; often none."""
    found: list[str] = []
    if audit_type is AuditType.MEMORY_PROGRAM:
        found.append("T1620")
    if audit_type is AuditType.EXEC_SESSION:
        found.append("T1609")
    if event.kind is EventKind.EXEC:
        name = event.applet or event.path.rpartition("/")[2]
        if technique := _PROGRAMS.get(name.rstrip("0123456789.")):
            found.append(technique)
        return tuple(dict.fromkeys(found))
    path = event.path2 or event.path
    if "authorized_keys" in path:
        found.append("T1098.004")
    found.extend(technique for prefix, technique in _PLACES if path.startswith(prefix))
    if event.operation in (Operation.CHMOD, Operation.CHOWN):
        found.append("T1548.001" if event.open_flags & 0o6000 else "T1222.002")
    if event.operation in (Operation.UNLINK, Operation.RMDIR):
        found.append("T1070.004")
    if event.operation in (Operation.MOUNT, Operation.PIVOT_ROOT):
        found.append("T1611")
    return tuple(dict.fromkeys(found))
