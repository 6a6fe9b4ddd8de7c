"""Numbers as a terminal table, a JSON file and a page."""
