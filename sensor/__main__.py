"""`python -m sensor`."""

from sensor.cli.main import main

main()
