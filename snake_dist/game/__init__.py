"""Snake on an N x N grid: board, rules, and the text form that models read and write. Imports no other room."""
