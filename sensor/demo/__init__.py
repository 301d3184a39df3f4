"""The whole story by itself: ``box`` is the container it is about, ``story`` tells it."""
