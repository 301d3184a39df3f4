"""Writes a report of the notes, as a program of its own."""

import csv
import sqlite3
import time
from pathlib import Path

database = sqlite3.connect("/srv/data/notes.db")
with Path(f"/srv/data/reports/report-{int(time.time())}.csv").open("w") as file:
    csv.writer(file).writerows(database.execute("SELECT * FROM notes"))
