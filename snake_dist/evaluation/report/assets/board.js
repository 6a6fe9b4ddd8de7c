// Draws a position as SVG. (0, 0) is the bottom-left cell.
"use strict";

const END_TEXT = {
  wall: "hit a wall", self: "bit itself", reversal: "turned back on itself", trapped: "no legal move was left",
  starved: "starved", invalid_reply: "the reply named no move", step_cap: "stopped alive", board_full: "filled the board",
};
const LETTERS = { U: "UP", D: "DOWN", L: "LEFT", R: "RIGHT" };
const DEAD = new Set(["wall", "self", "reversal", "trapped", "starved", "invalid_reply"]);

// `position`: {gridSize, body, apple, obstacles, end}; `next`: the move about to be made, or null.
function drawBoard(svg, position, next) {
  const n = position.gridSize, parts = [];
  const at = ([x, y]) => [x, n - 1 - y];
  const rect = (cell, size, className) => {
    const [x, y] = at(cell), gap = (1 - size) / 2;
    parts.push(`<rect class="${className}" x="${x + gap}" y="${y + gap}" width="${size}" height="${size}" rx="${size / 5}"/>`);
  };
  for (let i = 1; i < n; i++) parts.push(`<path class="grid" d="M${i} 0V${n}M0 ${i}H${n}"/>`);
  position.obstacles.forEach((cell) => rect(cell, 0.92, "obstacle"));
  if (position.apple) {
    const [x, y] = at(position.apple);
    parts.push(`<circle class="apple" cx="${x + 0.5}" cy="${y + 0.5}" r="0.34"/>`);
  }
  position.body.forEach((cell, i) => {
    const before = position.body[i - 1];
    if (before && Math.abs(before[0] - cell[0]) + Math.abs(before[1] - cell[1]) === 1) {
      const [x, y] = at(cell), [u, v] = at(before);
      parts.push(`<path class="snake link" d="M${x + 0.5} ${y + 0.5}L${u + 0.5} ${v + 0.5}"/>`);
    }
  });
  position.body.forEach((cell, i) => rect(cell, i ? 0.72 : 0.9, i ? "snake" : "head"));
  const dead = DEAD.has(position.end), [hx, hy] = at(position.body[0]);
  if (next && !position.end) {
    const [dx, dy] = Snake.DELTAS[next];
    parts.push(`<path class="next" d="M${hx + 0.5} ${hy + 0.5}l${dx * 0.9} ${-dy * 0.9}"/>`);
  }
  parts.push(dead
    ? `<path class="cross" d="M${hx + 0.25} ${hy + 0.25}l.5 .5m0 -.5l-.5 .5"/>`
    : `<circle class="eye" cx="${hx + 0.5}" cy="${hy + 0.5}" r="0.16"/>`);
  svg.setAttribute("viewBox", `-0.06 -0.06 ${n + 0.12} ${n + 0.12}`);
  svg.innerHTML = `<rect class="field" width="${n}" height="${n}"/>${parts.join("")}`;
  svg.setAttribute("aria-label",
    `Board of ${n} by ${n}. Head at ${position.body[0]}, apple at ${position.apple ?? "none"}, length ${position.body.length}` +
    (position.end ? `, ${END_TEXT[position.end]}.` : "."));
}
