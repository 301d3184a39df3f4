"""What an attacker tries in a container under prevention, and what a service may go on doing."""
