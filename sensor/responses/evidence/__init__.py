"""What a container looked like when something happened: one tar, with a manifest.

``collect`` is the whole story: what can be had from a runtime and from memory in the daemon, what
has to be read from /proc and from the file system in ``worker``, a process of its own that can be
ended at any time without losing what it has written so far. ``processes``, ``sockets`` and
``files`` are what the worker reads; ``pack`` is the tar and its verification, ``store`` the
directory with its quota, ``recorder`` what happened in the last minutes, ``secrets`` what must not
be in any of it.
"""
