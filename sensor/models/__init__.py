"""What each image does: keys, patterns, learning, states, store.

Read in this order: ``keys`` (what a model knows), ``model`` (a model and how it judges),
``registry`` (all models of a host: learning and states), ``store`` and ``files`` (where they are
kept), ``trie`` (how written paths are matched; the kernel's twin).
"""
