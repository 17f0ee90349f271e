// Readouts: values of a chart at the pointer or the keyboard position, and the surprise of a token.
"use strict";

const number = (value) => {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
};

const element = (name, text, style) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (style) made.className = style;
  return made;
};

const nearest = (values, x) => {
  let best = -1;
  values.forEach((value, i) => {
    if (value !== null && (best < 0 || Math.abs(value - x) < Math.abs(values[best] - x))) best = i;
  });
  return best;
};

for (const chart of document.querySelectorAll(".chart")) {
  const [plot, cursor, readout] = [".plot", ".cursor", ".readout"].map((name) => chart.querySelector(name));
  const data = JSON.parse(chart.querySelector("script").textContent);
  let place = 0.5;
  const show = (share) => {
    place = Math.min(1, Math.max(0, share));
    const x = data.low + place * (data.high - data.low);
    cursor.hidden = false;
    cursor.style.left = `${100 * place}%`;
    readout.replaceChildren(element("span", `${data.x} ${number(Number(x.toPrecision(4)))}`));
    for (const line of data.lines) {
      const i = nearest(line.x, x);
      if (i < 0 || line.y[i] === null) continue;
      const item = element("span");
      item.append(element("i", "", `c${line.color}`), `${line.label} `, element("b", number(line.y[i])));
      readout.append(item);
    }
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    show((event.clientX - box.left) / box.width);
  });
  plot.addEventListener("pointerleave", () => { cursor.hidden = true; });
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.01, ArrowRight: 0.01, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    show(place + step);
  });
}

for (const reading of document.querySelectorAll(".reading")) {
  const text = reading.querySelector(".text");
  if (!text) continue;
  const readout = reading.querySelector(".readout");
  const data = JSON.parse(reading.querySelector("script").textContent);
  const tokens = [...text.children].filter((child) => child.tagName === "SPAN");
  const places = new Map(tokens.map((token, i) => [token, i]));
  const quoted = (word) => `“${word.replace(/\n/g, "⏎").replace(/ /g, "␣")}”`;
  let current = -1;
  const show = (i) => {
    tokens[current]?.classList.remove("now");
    current = Math.min(tokens.length - 1, Math.max(0, i));
    tokens[current].classList.add("now");
    const [word, nats, likely] = data[current];
    const said = element("span");
    said.append(element("b", quoted(word)), ` ${nats.toFixed(2)} nats, p = ${number(100 * Math.exp(-nats))}%`);
    const expected = likely.map(([other, p]) => `${quoted(other)} ${number(100 * p)}%`).join(", ");
    readout.replaceChildren(said, element("span", `expected: ${expected}`));
  };
  text.addEventListener("pointermove", (event) => {
    const token = event.target.closest(".text > span");
    if (token) show(places.get(token));
  });
  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -20, ArrowDown: 20, Home: -1e9, End: 1e9 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    show(Math.max(0, current) + step);
    tokens[current].scrollIntoView({ block: "nearest" });
  });
}
