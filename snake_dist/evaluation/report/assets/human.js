// A human plays the comparison's games by the same rules; the log has the same lines as any other player's.
"use strict";

const Human = (() => {
  const $ = (id) => document.getElementById(id);
  const ARROWS = { ArrowUp: "UP", ArrowDown: "DOWN", ArrowLeft: "LEFT", ArrowRight: "RIGHT" };
  const game = { data: null, index: 0, state: null, heading: null, timer: null, log: [], turn: null };

  const tick = () => Number($("human-pace").value);
  function firstState() {
    const { grid_size, mode, seeds } = game.data.settings;
    return Snake.newGame(grid_size, mode, game.data.starts[seeds[game.index]]);
  }

  function begin() {
    clearInterval(game.timer);
    const { seeds } = game.data.settings;
    if (game.index >= seeds.length) return say("You have played all the games of this comparison.");
    const seed = seeds[game.index];
    game.state = firstState();
    game.heading = null;
    game.record = { seed, moves: [], apples: [game.state.apple], eaten_at: [], ms: [], pace: tick() };
    game.turn = performance.now();
    $("human-pace").disabled = true;
    if (tick()) game.timer = setInterval(() => game.heading && make(game.heading), tick());
    $("human-board").focus();
    draw();
  }

  function make(move) {
    const before = game.state, record = game.record, now = performance.now();
    record.moves.push(move);
    record.ms.push(Math.round(now - game.turn));
    game.turn = now;
    let state = Snake.step(before, move);
    if (state.score > before.score) {
      record.eaten_at.push(state.steps);
      if (state.apple) record.apples.push(state.apple);
    }
    const cap = game.data.settings.max_steps;
    if (state.end === null && cap && state.steps >= cap) state = { ...state, end: "step_cap" };
    game.state = state;
    if (state.end !== null) finish();
    draw();
  }

  function finish() {
    clearInterval(game.timer);
    const { grid_size, mode, max_steps } = game.data.settings, { record, state } = game;
    const { pace, ...columns } = record;
    game.log.push(JSON.stringify({
      format: game.data.format, player: "human", kind: "human", symmetry: 0, grid_size, mode, max_steps,
      identity: pace ? `browser, ${pace} ms a move` : "browser, turn-based",
      ...columns, score: state.score, steps: state.steps, end: state.end, obstacles: state.obstacles,
    }));
    game.index++;
    $("human-pace").disabled = false;
    $("human-save").disabled = false;
    $("human-start").textContent = "Next game";
  }

  function direct(move) {
    if (!game.state || game.state.end !== null) return;
    if (tick() === 0) return make(move);
    const started = game.heading !== null;
    game.heading = move;
    if (!started) game.turn = performance.now();
  }

  const say = (text) => { $("human-state").textContent = text; };
  function draw() {
    const { state } = game;
    drawBoard($("human-board"), state, null);
    $("human").dataset.head = state.body[0];
    say(`Game ${game.record ? game.log.length + (state.end ? 0 : 1) : 0}: ${state.score} apple${state.score === 1 ? "" : "s"}, ` +
      `${state.steps} moves${state.end ? `: ${END_TEXT[state.end]}` : ""}`);
  }

  function save() {
    const url = URL.createObjectURL(new Blob(game.log.map((line) => line + "\n"), { type: "application/jsonl" }));
    Object.assign(document.createElement("a"), { href: url, download: "human.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  function start(data) {
    game.data = data;
    drawBoard($("human-board"), firstState(), null);
    $("human-start").addEventListener("click", begin);
    $("human-save").addEventListener("click", save);
    $("human").addEventListener("keydown", (event) => {
      const move = ARROWS[event.key];
      if (!move || event.target.tagName === "SELECT") return;
      event.preventDefault();
      direct(move);
    });
    for (const button of document.querySelectorAll("[data-move]")) {
      button.addEventListener("click", () => direct(button.dataset.move));
    }
  }

  return { start };
})();
