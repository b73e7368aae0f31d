"use strict";
// The photographs are the inert elements at the end of the page; only the cards on show are made, from their text.
addEventListener("DOMContentLoaded", () => {
  const SHOWN = 60, BARS = 80;
  const main = document.querySelector("main");
  const photographs = [...document.querySelectorAll("script[data-file]")].map((element) => {
    const { file, score, regions, picture } = element.dataset;
    return { element, file, score: Number(score), regions: Number(regions), picture };
  });
  const given = main.dataset.threshold;
  const scores = photographs.map(({ score }) => score);
  const all = given ? [...scores, Number(given)] : scores;
  // rounded away from the scores, as a slider keeps only 15 digits and could otherwise end above the lowest score
  const low = Math.floor(all.reduce((a, b) => Math.min(a, b), 1) * 1e4) / 1e4;
  const high = Math.max(Math.ceil(all.reduce((a, b) => Math.max(a, b), 0) * 1e4) / 1e4, low + 1e-4);
  let threshold = given ? Number(given) : (low + high) / 2;
  let verdict = "", order = "falling", words = "", page = 0;

  const make = (name, values = {}, ...children) => {
    const element = Object.assign(document.createElement(name), values);
    element.append(...children);
    return element;
  };

  const bars = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  bars.setAttribute("viewBox", `0 0 ${BARS} 1`);
  bars.setAttribute("preserveAspectRatio", "none");
  bars.setAttribute("role", "img");
  bars.setAttribute("aria-label", "histogram of image scores");
  const counts = new Array(BARS).fill(0);
  for (const score of scores) counts[Math.min(BARS - 1, Math.floor((score - low) / (high - low) * BARS))] += 1;
  const most = Math.max(...counts, 1);
  counts.forEach((count, place) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = count && Math.max(0.02, count / most);
    for (const [key, value] of Object.entries({ x: place + 0.05, y: 1 - height, width: 0.9, height })) bar.setAttribute(key, value);
    bars.append(bar);
  });

  const slider = make("input", { type: "range", min: low, max: high, step: "any", value: threshold, ariaLabel: "threshold" });
  const number = make("input", { type: "number", min: 0, max: 1, step: "any", id: "threshold" });
  const back = make("button", { type: "button", textContent: "as predicted", hidden: !given });
  const said = make("span", { id: "counts", ariaLive: "polite" });
  const empty = make("p", { className: "empty", textContent: "No photograph fits." });
  const cards = make("div", { className: "cards" });
  cards.dataset.turns = "";
  const place = make("span");
  const previous = make("button", { type: "button", textContent: "previous" });
  const next = make("button", { type: "button", textContent: "next" });
  const search = make("input", { type: "search", placeholder: "part of a name", ariaLabel: "part of a name" });

  const choice = (title, texts, chosen, choose) => {
    const buttons = Object.entries(texts).map(([value, text]) => {
      const button = make("button", { type: "button", textContent: text, value, ariaPressed: String(value === chosen) });
      button.addEventListener("click", () => {
        for (const other of buttons) other.ariaPressed = String(other === button);
        choose(value);
        page = 0;
        show();
      });
      return button;
    });
    return make("div", {}, make("span", { textContent: title }), ...buttons);
  };
  const verdicts = choice("verdict", { "": "", defect: "", normal: "" }, verdict, (value) => { verdict = value; });
  const orders = { falling: "highest first", rising: "lowest first", nearest: "nearest to the threshold", name: "name" };

  main.replaceChildren(
    make("div", { className: "judge" }, bars, slider, make("label", {}, "threshold", number, back, said)),
    make("div", { className: "controls" }, verdicts, choice("score", orders, order, (value) => { order = value; }),
      make("div", {}, search), make("div", {}, previous, next, place)),
    empty, cards,
  );

  const judged = ({ score }) => (score >= threshold ? "defect" : "normal");
  const comparing = {
    falling: (a, b) => b.score - a.score,
    rising: (a, b) => a.score - b.score,
    nearest: (a, b) => Math.abs(a.score - threshold) - Math.abs(b.score - threshold),
    name: (a, b) => a.file.localeCompare(b.file, undefined, { numeric: true }),
  };

  const card = (photograph) => {
    const found = judged(photograph);
    const image = make("img", { alt: "", src: `data:image/jpeg;base64,${photograph.element.textContent}` });
    const caption = make("figcaption", { textContent: `${photograph.regions} region${photograph.regions === 1 ? "" : "s"}` });
    if (photograph.picture) caption.append(" · ", make("a", { href: photograph.picture, textContent: "full size" }));
    const zoom = make("button", { type: "button", className: "zoom", title: "enlarge", ariaLabel: "enlarge" }, image);
    return make("article", { className: `card ${found}` },
      make("header", {}, make("b", { textContent: photograph.file }), make("i", { textContent: `${photograph.score.toFixed(4)} · ${found}` })),
      make("figure", {}, zoom, caption));
  };

  function show() {
    const defects = scores.filter((score) => score >= threshold).length;
    const numbers = [scores.length, defects, scores.length - defects].map((count) => count.toLocaleString("en"));
    said.textContent = `${numbers[1]} defect, ${numbers[2]} normal`;
    ["all", "defect", "normal"].forEach((name, index) => { verdicts.children[index + 1].textContent = `${name} ${numbers[index]}`; });
    [...bars.children].forEach((bar, index) => {
      bar.setAttribute("class", low + (index + 1) / BARS * (high - low) > threshold ? "defect" : "normal");
    });
    const fitting = photographs.filter((one) => (!verdict || judged(one) === verdict) && one.file.toLowerCase().includes(words));
    fitting.sort(comparing[order]);
    page = Math.max(0, Math.min(page, Math.ceil(fitting.length / SHOWN) - 1));
    const from = page * SHOWN, shown = fitting.slice(from, from + SHOWN);
    place.textContent = shown.length ? `${from + 1}–${from + shown.length} of ${fitting.length.toLocaleString("en")}` : "";
    previous.disabled = page === 0;
    next.disabled = from + SHOWN >= fitting.length;
    empty.hidden = shown.length > 0;
    cards.replaceChildren(...shown.map(card));
  }

  let waiting = false;
  const judge = (value) => { // at most once a frame while the slider moves
    threshold = value;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      show();
    });
  };
  const write = (value) => { number.value = Number(value.toFixed(5)); };
  slider.addEventListener("input", () => { write(Number(slider.value)); judge(Number(slider.value)); });
  number.addEventListener("input", () => {
    if (number.value === "") return;
    slider.value = number.value;
    judge(Number(number.value));
  });
  back.addEventListener("click", () => { slider.value = given; write(Number(given)); judge(Number(given)); });
  search.addEventListener("input", () => { words = search.value.toLowerCase(); page = 0; show(); });
  const turn = (step) => { page += step; show(); main.querySelector(".controls").scrollIntoView(); };
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  write(threshold);
  show();
});
