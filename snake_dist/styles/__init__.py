"""A style: what a player is shown (prompt), what it says (completion), and what of it is true (claims)."""
