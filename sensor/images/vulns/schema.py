"""The tables of the advisory store, and of the file that an import builds up beside it.

A range of versions is a row of ``affected``. Its primary key begins with the package and the key
above its last version, so that "which advisories concern this version" is one range of the index:
``package = ? AND high > ?``, of which ``low <= ?`` is then checked.
"""

VERSION = 1

FACTS = """
CREATE TABLE IF NOT EXISTS {schema}.cve (
    cve TEXT NOT NULL,
    feed INTEGER NOT NULL,
    score REAL,
    vector TEXT NOT NULL,
    scored_by TEXT NOT NULL,
    published TEXT NOT NULL,
    modified TEXT NOT NULL,
    summary TEXT NOT NULL,
    PRIMARY KEY (cve, feed)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {schema}.exploited (
    cve TEXT NOT NULL,
    feed INTEGER NOT NULL,
    added TEXT NOT NULL,
    due TEXT NOT NULL,
    ransomware INTEGER NOT NULL,
    PRIMARY KEY (cve, feed)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {schema}.likelihood (
    cve TEXT NOT NULL,
    feed INTEGER NOT NULL,
    probability REAL NOT NULL,
    percentile REAL NOT NULL,
    PRIMARY KEY (cve, feed)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {schema}.problem (
    feed INTEGER NOT NULL,
    place TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.advisory (
    id INTEGER PRIMARY KEY,
    feed INTEGER NOT NULL,
    name TEXT NOT NULL,
    cves TEXT NOT NULL,
    aliases TEXT NOT NULL,
    published TEXT NOT NULL,
    score REAL,
    vector TEXT NOT NULL,
    summary TEXT NOT NULL,
    is_errata INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.advisory_name (
    name TEXT NOT NULL,
    advisory INTEGER NOT NULL,
    PRIMARY KEY (name, advisory)
) WITHOUT ROWID;
"""

STORE = """
CREATE TABLE IF NOT EXISTS feed (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    digest TEXT NOT NULL DEFAULT '',
    etag TEXT NOT NULL DEFAULT '',
    last_modified TEXT NOT NULL DEFAULT '',
    checked_ns INTEGER NOT NULL DEFAULT 0,
    imported_ns INTEGER NOT NULL DEFAULT 0,
    records INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    stale_seconds REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS package (
    id INTEGER PRIMARY KEY,
    ecosystem TEXT NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (ecosystem, name)
);
CREATE TABLE IF NOT EXISTS affected (
    package INTEGER NOT NULL,
    high BLOB NOT NULL,
    low BLOB NOT NULL,
    advisory INTEGER NOT NULL,
    fixed TEXT NOT NULL,
    status INTEGER NOT NULL,
    severity INTEGER NOT NULL,
    PRIMARY KEY (package, high, low, advisory)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS affected_advisory ON affected (advisory);
CREATE INDEX IF NOT EXISTS advisory_feed ON advisory (feed);
CREATE TABLE IF NOT EXISTS report (
    image TEXT PRIMARY KEY,
    reference TEXT NOT NULL,
    tool TEXT NOT NULL,
    created TEXT NOT NULL,
    imported_ns INTEGER NOT NULL,
    findings BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS generation (number INTEGER NOT NULL);
INSERT INTO generation SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM generation);
"""

STAGE = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS affected (
    ecosystem TEXT NOT NULL,
    name TEXT NOT NULL,
    high BLOB NOT NULL,
    low BLOB NOT NULL,
    advisory INTEGER NOT NULL,
    fixed TEXT NOT NULL,
    status INTEGER NOT NULL,
    severity INTEGER NOT NULL
);
"""

# What takes the place of a feed's old rows, in one transaction. :feed is its number, :shift is
# added to the numbers of its advisories.
MERGE = (
    "DELETE FROM affected WHERE advisory IN (SELECT id FROM advisory WHERE feed=:feed)",
    "DELETE FROM advisory_name WHERE advisory IN (SELECT id FROM advisory WHERE feed=:feed)",
    "DELETE FROM advisory WHERE feed=:feed",
    "DELETE FROM cve WHERE feed=:feed",
    "DELETE FROM exploited WHERE feed=:feed",
    "DELETE FROM likelihood WHERE feed=:feed",
    "DELETE FROM problem WHERE feed=:feed",
    """INSERT INTO advisory SELECT id + :shift, :feed, name, cves, aliases, published, score,
    vector, summary, is_errata FROM stage.advisory""",
    "INSERT INTO advisory_name SELECT name, advisory + :shift FROM stage.advisory_name",
    """INSERT OR IGNORE INTO package (ecosystem, name) SELECT DISTINCT ecosystem, name
    FROM stage.affected""",
    """INSERT OR REPLACE INTO affected SELECT p.id, s.high, s.low, s.advisory + :shift, s.fixed,
    s.status, s.severity FROM stage.affected s CROSS JOIN package p
    ON p.ecosystem = s.ecosystem AND p.name = s.name""",
    """INSERT INTO cve SELECT cve, :feed, score, vector, scored_by, published, modified, summary
    FROM stage.cve""",
    "INSERT INTO exploited SELECT cve, :feed, added, due, ransomware FROM stage.exploited",
    "INSERT INTO likelihood SELECT cve, :feed, probability, percentile FROM stage.likelihood",
    "INSERT INTO problem SELECT :feed, place, text FROM stage.problem",
    "UPDATE generation SET number = number + 1",
)

REMOVE = MERGE[:7]
