"""Virtual machines for the kernel tests: one root file system, several kernels, no KVM."""
