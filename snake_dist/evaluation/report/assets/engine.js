// The rules of snake_dist/game/rules.py. A test plays the same games in both.
"use strict";

const Snake = (() => {
  const DELTAS = { UP: [0, 1], DOWN: [0, -1], LEFT: [-1, 0], RIGHT: [1, 0] };
  const MASK64 = (1n << 64n) - 1n;

  // SplitMix64: [next generator state, number in [0, bound)].
  function randomBelow(rng, bound) {
    rng = (rng + 0x9e3779b97f4a7c15n) & MASK64;
    let z = rng;
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK64;
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK64;
    z ^= z >> 31n;
    return [rng, Number((z * BigInt(bound)) >> 64n)];
  }

  const same = (a, b) => a !== null && b !== null && a[0] === b[0] && a[1] === b[1];
  const includes = (cells, cell) => cells.some((other) => same(other, cell));

  // `start`: {rng, apple, obstacles} of a game's first state, as the page's data has them.
  function newGame(gridSize, mode, start) {
    const centre = Math.floor(gridSize / 2);
    return {
      gridSize, mode, obstacles: start.obstacles, body: [[centre, centre]], apple: start.apple,
      rng: BigInt(start.rng), score: 0, steps: 0, stepsSinceApple: 0, end: null,
    };
  }

  function destination(state, cell, move) {
    const n = state.gridSize;
    let x = cell[0] + DELTAS[move][0], y = cell[1] + DELTAS[move][1];
    if (state.mode === "wrap") [x, y] = [(x + n) % n, (y + n) % n];
    else if (x < 0 || y < 0 || x >= n || y >= n) return null;
    return includes(state.obstacles, [x, y]) ? null : [x, y];
  }

  function fatalReason(state, move) {
    const there = destination(state, state.body[0], move);
    if (there === null) return "wall";
    if (state.body.length > 1 && same(there, state.body[1])) return "reversal";
    return includes(state.body.slice(0, -1), there) ? "self" : null;
  }

  const legalMoves = (state) => Object.keys(DELTAS).filter((move) => fatalReason(state, move) === null);

  function placeApple(state) {
    const taken = new Set([...state.obstacles, ...state.body].map(String)), free = [];
    for (let x = 0; x < state.gridSize; x++)
      for (let y = 0; y < state.gridSize; y++) if (!taken.has(`${x},${y}`)) free.push([x, y]);
    if (free.length === 0) return { ...state, apple: null, end: "board_full" };
    const [rng, index] = randomBelow(state.rng, free.length);
    return { ...state, rng, apple: free[index] };
  }

  function step(state, move) {
    const fatal = fatalReason(state, move), steps = state.steps + 1;
    if (fatal !== null) return { ...state, steps, end: fatal };
    const there = destination(state, state.body[0], move);
    const eats = same(there, state.apple);
    const body = [there, ...(eats ? state.body : state.body.slice(0, -1))];
    const moved = eats
      ? placeApple({ ...state, body, steps, score: state.score + 1, stepsSinceApple: 0 })
      : { ...state, body, steps, stepsSinceApple: state.stepsSinceApple + 1 };
    if (moved.end === null && legalMoves(moved).length === 0) return { ...moved, end: "trapped" };
    if (moved.end === null && moved.stepsSinceApple >= 4 * state.gridSize ** 2) return { ...moved, end: "starved" };
    return moved;
  }

  return { DELTAS, newGame, step, destination, fatalReason, legalMoves };
})();
