"""The durable record of what deviated.

``audit`` says what an audit is, ``record`` makes one of an event, ``store`` keeps it, ``query``
finds it again. ``chain``, ``head`` and ``verify`` show whether it is still what was recorded.
``formats`` names every form it can take: ``text`` for people, ``native``, ``ocsf``, ``ecs`` and
``falco`` for machines.
"""
