"""Games and a fixed bank of states, played and turned into numbers with intervals."""
