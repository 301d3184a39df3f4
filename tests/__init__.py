"""Tests of Rote: ``unit`` anywhere, ``kernel``, ``docker`` and ``evasion`` as root."""
