// The replay viewer: two players' games of one seed, kept in step by one move counter.
"use strict";

const Replay = (() => {
  const $ = (id) => document.getElementById(id);
  const SPEEDS = [1, 2, 5, 10, 25, 50];
  const view = { data: null, t: 0, playing: null, speed: 2, games: [null, null], tracks: [null, null] };

  // Where the snake was after each move: body at t are the last `length[t]` heads. Replays the whole game once.
  function track(game) {
    let state = Snake.newGame(view.data.settings.grid_size, view.data.settings.mode, view.data.starts[game.seed]);
    const heads = [state.body[0]], points = [{ at: 0, score: 0, apple: state.apple }];
    for (const letter of game.moves) {
      const before = state;
      state = Snake.step(before, LETTERS[letter]);
      if (state.body !== before.body) heads.push(state.body[0]);
      points.push({ at: heads.length - 1, score: state.score, apple: state.apple });
    }
    return { heads, points, obstacles: state.obstacles, gridSize: state.gridSize, replyAt: replyAt(game) };
  }

  // For each tick the reply that decides it, and which of its moves it is. A reply without a move takes one tick too.
  function replyAt(game) {
    const made = game.made ?? Array(game.ticks).fill(1);
    return made.flatMap((moves, reply) => Array.from({ length: Math.max(moves, 1) }, (_, i) => ({ reply, move: i + 1, of: moves })));
  }

  function position(side, t) {
    const { heads, points, obstacles, gridSize } = view.tracks[side];
    const game = view.games[side], i = Math.min(t, points.length - 1), { at, score, apple } = points[i];
    const body = heads.slice(Math.max(at - score, 0), at + 1).reverse();
    return { gridSize, obstacles, body, apple, score, moves: i, end: t >= game.ticks ? game.end : null };
  }

  function reasoning(game, i) {
    const text = game.texts ? game.texts[i] : LETTERS[game.moves[i]] ?? "";
    const parts = document.createDocumentFragment();
    let done = 0;
    for (const [start, end, isTrue] of (game.claims && game.claims[i]) || []) {
      if (start < done) continue;
      parts.append(text.slice(done, start));
      const claim = document.createElement("mark");
      claim.className = isTrue ? "true" : "false";
      claim.textContent = text.slice(start, end);
      claim.title = isTrue ? "true of the board that was shown" : "false of the board that was shown";
      if (!isTrue) claim.insertAdjacentHTML("beforeend", '<span class="hidden"> (false)</span>');
      parts.append(claim);
      done = end;
    }
    parts.append(text.slice(done));
    return parts;
  }

  function render() {
    for (const side of [0, 1]) {
      const game = view.games[side], box = $(`side-${side}`);
      box.hidden = game === null;
      if (!game) continue;
      const now = position(side, view.t), next = LETTERS[game.moves[view.t]] ?? null;
      const said = view.tracks[side].replyAt[Math.min(view.t, game.ticks - 1)];
      const which = said.of > 1 ? ` (${said.move} of ${said.of} in this reply)` : "";
      drawBoard($(`board-${side}`), now, next);
      $(`title-${side}`).textContent = game.player;
      $(`state-${side}`).textContent = `${now.score} apple${now.score === 1 ? "" : "s"}, move ${now.moves}` +
        (now.end ? `: ${END_TEXT[now.end]}` : next ? `, next ${next}${which}` : "");
      box.classList.toggle("dead", DEAD.has(now.end));
      box.dataset.head = now.body[0];
      box.dataset.move = now.moves;
      $(`reply-${side}`).replaceChildren(reasoning(game, said.reply));
    }
    $("scrub").value = view.t;
    $("scrub").setAttribute("aria-valuetext", `move ${view.t} of ${$("scrub").max}`);
    $("counter").textContent = `${view.t} / ${$("scrub").max}`;
  }

  const last = () => Number($("scrub").max);
  function go(t) {
    view.t = Math.max(0, Math.min(t, last()));
    if (view.t === last()) pause();
    render();
  }
  function pause() {
    clearInterval(view.playing);
    view.playing = null;
    $("play").textContent = "Play";
    $("play").setAttribute("aria-pressed", "false");
  }
  function play() {
    if (view.t === last()) view.t = 0;
    clearInterval(view.playing);
    view.playing = setInterval(() => go(view.t + 1), 1000 / SPEEDS[view.speed]);
    $("play").textContent = "Pause";
    $("play").setAttribute("aria-pressed", "true");
  }
  const toggle = () => (view.playing === null ? play() : pause());
  function setSpeed(index) {
    view.speed = Math.max(0, Math.min(index, SPEEDS.length - 1));
    $("speed").value = view.speed;
    if (view.playing !== null) play();
  }

  // The first death among the games shown, after the current move if there is one.
  function death() {
    const deaths = view.games.filter((game) => game && DEAD.has(game.end)).map((game) => game.ticks).sort((a, b) => a - b);
    if (deaths.length) go(deaths.find((t) => t > view.t) ?? deaths[0]);
  }
  function disagreement() {
    const [a, b] = view.games;
    if (!a || !b) return;
    let t = 0;
    while (t < Math.min(a.moves.length, b.moves.length) && a.moves[t] === b.moves[t]) t++;
    if (a.moves.length !== b.moves.length || t < a.moves.length) go(t);
  }

  function choose() {
    pause();
    const seed = Number($("seed").value);
    view.games = [0, 1].map((side) =>
      view.data.games.find((game) => game.player === $(`player-${side}`).value && game.seed === seed) ?? null);
    view.tracks = view.games.map((game) => game && track(game));
    $("scrub").max = Math.max(0, ...view.games.filter(Boolean).map((game) => game.ticks));
    $("to-disagreement").disabled = view.games.includes(null);
    $("to-death").disabled = !view.games.some((game) => game && DEAD.has(game.end));
    view.t = 0;
    render();
  }

  const KEYS = {
    " ": toggle, ArrowRight: () => go(view.t + 1), ArrowLeft: () => go(view.t - 1), Home: () => go(0),
    End: () => go(last()), d: death, f: disagreement, "+": () => setSpeed(view.speed + 1), "-": () => setSpeed(view.speed - 1),
  };
  function onKey(event) {
    const target = event.target, name = target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest("#human")) return;
    if (name === "SELECT" || name === "SUMMARY" || (name === "INPUT" && target.type !== "range")) return;
    if (event.key === " " && (name === "BUTTON" || name === "A")) return;
    const action = KEYS[event.key];
    if (!action) return;
    event.preventDefault();
    if (event.key.startsWith("Arrow")) pause();
    action();
  }

  function start(data) {
    view.data = data;
    if (!data.games.length) return;
    const option = (value) => new Option(value, value);
    const players = [...new Set(data.games.map((game) => game.player))];
    $("player-0").append(...players.map(option));
    $("player-1").append(new Option("nobody", ""), ...players.map(option));
    $("seed").append(...[...new Set(data.games.map((game) => game.seed))].map(option));
    $("speed").append(...SPEEDS.map((speed, i) => new Option(`${speed} moves/s`, i)));
    $("player-0").value = players.find((name) => !["base", "random-legal"].includes(name)) ?? players[0];
    $("player-1").value = players.find((name) => name === "bfs-safe" && name !== $("player-0").value) ?? players.find((name) => name !== $("player-0").value) ?? "";
    for (const id of ["player-0", "player-1", "seed"]) $(id).addEventListener("change", choose);
    $("speed").addEventListener("change", () => setSpeed(Number($("speed").value)));
    $("scrub").addEventListener("input", () => { pause(); go(Number($("scrub").value)); });
    const clicks = { play: toggle, first: () => go(0), back: () => go(view.t - 1), forward: () => go(view.t + 1),
      "to-death": death, "to-disagreement": disagreement };
    for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
    document.addEventListener("keydown", onKey);
    setSpeed(view.speed);
    choose();
  }

  return { start };
})();
