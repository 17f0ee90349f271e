// Renders the text: one span per token, tinted by its surprise, and a panel with the alternatives of a token.

const LEVELS = 8; // number of tints
const NAMES = { ' ': 'space', '\n': 'line break', '\t': 'tab', '\r': 'carriage return', '\u00a0': 'no-break space' };
const SIGNS = { ' ': '␣', '\n': '↵', '\t': '⇥', '\r': '␍', '\u00a0': '⍽' };

const percent = (p) => {
  const value = p * 100;
  return `${value >= 99.95 ? '100' : value >= 0.1 ? value.toFixed(1) : value >= 0.001 ? value.toFixed(3) : '< 0.001'} %`;
};
const ordinal = (n) => {
  const ending = n % 100 > 10 && n % 100 < 14 ? 'th' : (['th', 'st', 'nd', 'rd'][n % 10] ?? 'th');
  return `${n.toLocaleString('en')}${ending}`;
};
const visible = (token) => token.replace(/[ \n\t\r\u00a0]/g, (space) => SIGNS[space]);
const spoken = (token) => NAMES[token] ?? token;

function element(name, className = '', text = '') {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

export class TextView {
  /** `place`: element of the text; `panel`: {root, body, hint, close} for the alternatives of a token. */
  constructor(place, panel) {
    Object.assign(this, { place, panel, most: 1, tokens: [], spans: [], bits: 0, at: -1, refocus: false });
    place.addEventListener('pointerover', (event) => this.#pointed(event));
    place.addEventListener('click', (event) => this.#pointed(event, true));
    place.addEventListener('focusin', (event) => this.#pointed(event, true));
    place.addEventListener('keydown', (event) => this.#walk(event));
    panel.close.addEventListener('click', () => this.close());
  }

  /** Scale surprise to that of a uniform guess among V tokens. */
  measure(V) {
    this.most = Math.max(Math.log2(V), 1);
  }

  /** Start an empty text after `prompt`. */
  begin(prompt) {
    this.refocus = this.place.contains(document.activeElement); // keep the keyboard focus inside the text
    this.panel.root.classList.remove('open');
    this.tokens = [];
    this.spans = [];
    this.bits = 0;
    this.at = -1;
    this.place.replaceChildren(element('span', 'given', prompt));
    this.panel.body.replaceChildren();
    this.panel.hint.hidden = false;
  }

  /** Append generated tokens, as the worker describes them. */
  add(tokens) {
    const drawn = document.createDocumentFragment();
    for (const token of tokens) {
      this.bits += token.bits;
      const word = token.text.replace(/^ (?=.)/s, ''); // the space between words is not tinted
      if (token.gap || word.length < token.text.length) drawn.append(' ');
      const level = Math.min(LEVELS - 1, Math.floor((token.bits / this.most) * LEVELS));
      const span = element('span', `t s${level}${token.eos ? ' eos' : word === '\n' ? ' nl' : ''}`, word);
      span.dataset.i = this.spans.length;
      span.tabIndex = this.spans.length === 0 ? 0 : -1;
      this.spans.push(span);
      this.tokens.push(token);
      drawn.append(span);
    }
    this.place.append(drawn);
    if (this.refocus) this.spans[0].focus({ preventScroll: true });
    this.refocus = false;
  }

  /** Return prompt and text as one string. */
  text() {
    return this.place.textContent;
  }

  /** Return the mean surprise in bits; 0 for an empty text. */
  meanBits() {
    return this.bits / Math.max(this.tokens.length, 1);
  }

  /** Deselect the token; on a narrow screen the panel closes. */
  close() {
    this.panel.root.classList.remove('open');
    this.spans[this.at]?.classList.remove('on');
    this.spans[this.at]?.blur();
  }

  #pointed(event, open = false) {
    const i = event.target.dataset?.i;
    if (i === undefined) return;
    this.#look(Number(i));
    if (open) this.panel.root.classList.add('open');
  }

  #look(i) {
    const [before, now] = [this.spans[this.at] ?? this.spans[0], this.spans[i]];
    before.classList.remove('on');
    before.tabIndex = -1;
    now.classList.add('on');
    now.tabIndex = 0; // one tab stop, at the token selected last
    this.at = i;
    this.#explain(this.tokens[i]);
  }

  #walk(event) {
    const i = Number(event.target.dataset?.i);
    if (Number.isNaN(i) || event.altKey || event.ctrlKey || event.metaKey) return;
    const last = this.spans.length - 1;
    const steps = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: last };
    const to = event.key === 'ArrowUp' || event.key === 'ArrowDown' ? this.#line(i, event.key) : steps[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.spans[Math.min(Math.max(to, 0), last)].focus();
  }

  /** Return the nearest token on the line above or below. */
  #line(i, key) {
    const step = key === 'ArrowUp' ? -1 : 1;
    const here = this.spans[i].getBoundingClientRect();
    let best = i;
    let nearest = Infinity;
    let line = null;
    for (let j = i + step; this.spans[j]; j += step) {
      const there = this.spans[j].getBoundingClientRect();
      if (Math.abs(there.bottom - here.bottom) < here.height / 2) continue;
      line ??= there.bottom;
      if (Math.abs(there.bottom - line) > here.height / 2) break;
      const distance = Math.abs(there.left - here.left);
      if (distance < nearest) [best, nearest] = [j, distance];
    }
    return best;
  }

  #explain({ token, bits, p, place, top }) {
    const head = element('p', 'choice');
    head.append(element('b', 'glyph', visible(token)), ' ');
    if (NAMES[token]) head.append(element('span', 'quiet', NAMES[token]), ' ');
    const figures = element('p', 'figures', `${bits.toFixed(2)} bits · ${percent(p)} · ${ordinal(place)} choice`);
    const list = element('ol', 'alternatives');
    const shown = top.some(({ chosen }) => chosen) ? top : [...top, { text: token, p, chosen: true, place }];
    for (const row of shown) {
      const item = element('li', row.chosen ? 'chosen' : '');
      if (row.place) item.classList.add('far');
      const bar = element('span', 'bar');
      bar.style.setProperty('--p', String(row.p));
      bar.setAttribute('aria-hidden', 'true');
      const glyph = element('span', 'glyph', visible(row.text));
      if (NAMES[row.text]) glyph.setAttribute('aria-label', spoken(row.text));
      item.append(glyph, bar, element('span', 'percent', percent(row.p)));
      list.append(item);
    }
    this.panel.hint.hidden = true;
    this.panel.body.replaceChildren(head, figures, list);
  }
}
