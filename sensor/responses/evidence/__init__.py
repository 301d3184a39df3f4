"""What is kept of a container before it is taken out of service, and on request."""
