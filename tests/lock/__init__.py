"""The lock acts on the whole host, so these tests run in virtual machines only: scripts/vm."""
