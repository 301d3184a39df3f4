"""The kernel side's user-space half: headers, load, pin, ring, decode.

Read in this order: ``port`` (what the rest of Rote may ask), ``live`` (the answer for a real
kernel), ``build`` (the short-lived process that compiles and pins; the only one that imports
bcc), ``ring`` and ``decode`` (from memory to ``sensor.events.Event``).
"""
