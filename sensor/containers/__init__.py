"""Who the containers are: runtimes, cgroups, identity."""
