"""One style = what is shown (prompt), what is said (completion), and what of it is true (claims)."""
