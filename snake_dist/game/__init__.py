"""Snake on an N x N grid: board, rules, and the text that models read and write. Imports no other room."""
