"""What an image consists of.

Read in this order: ``package`` (the data), ``inventory`` (how one is made), ``tree`` (what files
are read through), ``walk`` (what is looked at), then a reader an ecosystem.
"""
