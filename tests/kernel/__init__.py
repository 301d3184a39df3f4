"""BPF programs on the kernel that runs."""
