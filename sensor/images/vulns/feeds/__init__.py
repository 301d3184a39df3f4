"""One reader for each kind of feed: a file in, advisories and facts about CVEs out."""
