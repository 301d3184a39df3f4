"""Services as data: what becomes an image, and what clients do to it, in two different mixes.

``recipe`` has the types, ``common`` lists everything. Whoever wants containers of them goes through
``tests.docker.images``.
"""
