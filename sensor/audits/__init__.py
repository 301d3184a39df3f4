"""The durable record of what deviated.

``audit`` says what an audit is, ``record`` makes one of an event, ``store`` keeps it, ``query``
finds it again, ``formats`` shows it.
"""
