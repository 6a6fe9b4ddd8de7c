"""Snake on an N x N grid: board, rules and symmetries."""
