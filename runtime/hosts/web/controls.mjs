// Settings: their definitions, sliders and fields, and their names in the URL.

import { HostError } from './js/errors.mjs';

const MAX_LENGTH = 10_000; // tokens; each is an element of the page
const MAX_SEED = 2n ** 64n - 1n;

const trimmed = (value, digits) => String(Number(value.toFixed(digits)));
// A slider has positions 0 to 1000, mapped to values linearly or logarithmically.
const even = (least, most, digits) => ({
  toValue: (place) => trimmed(least + ((most - least) * place) / 1000, digits),
  toPlace: (value) => ((value - least) / (most - least)) * 1000,
});
const byFactors = (least, most) => ({
  toValue: (place) => String(Math.round(least * (most / least) ** (place / 1000))),
  toPlace: (value) => (Math.log(Math.max(value, least) / least) / Math.log(most / least)) * 1000,
});

function number(name, text, least, most, whole = false) {
  const value = text.trim() === '' ? NaN : Number(text);
  if (!(value >= least && value <= most) || (whole && !Number.isInteger(value))) {
    const kind = whole ? 'a whole number' : 'a number';
    throw new HostError(`${name}: needs ${kind} from ${least} to ${most.toLocaleString('en')}`);
  }
  return value;
}

function seed(text) {
  const value = /^\s*\d{1,20}\s*$/.test(text) ? BigInt(text.trim()) : -1n;
  if (value < 0n || value > MAX_SEED) throw new HostError(`Seed: needs a whole number from 0 to ${MAX_SEED}`);
  return value;
}

/** All settings: `key` in the URL, parser of the text, mapping of the slider, and labels below it. */
function definitions(V) {
  return [
    {
      key: 'temperature',
      label: 'Temperature',
      initial: '0.8',
      slider: even(0, 2, 2),
      read: (text) => number('Temperature', text, 0, 100),
      note: (value) => (value === 0 ? 'always the likeliest' : value < 1 ? 'calmer' : value > 1 ? 'wilder' : 'as it is'),
    },
    {
      key: 'top_p',
      label: 'Top-p',
      initial: '1',
      slider: even(0, 1, 2),
      read: (text) => number('Top-p', text, 0, 1),
      note: (value) => (value === 1 ? 'off' : `likeliest ${trimmed(value * 100, 1)} %`),
    },
    {
      key: 'top_k',
      label: 'Top-k',
      initial: '0',
      // the right end means all tokens, encoded as 0
      slider: {
        toValue: (place) => (place >= 1000 ? '0' : byFactors(1, V).toValue(place)),
        toPlace: (value) => (value === 0 ? 1000 : byFactors(1, V).toPlace(value)),
      },
      read: (text) => number('Top-k', text, 0, 1e9, true),
      note: (value) => (value === 0 ? 'off' : value === 1 ? 'the likeliest' : `likeliest ${value}`),
    },
    {
      key: 'length',
      label: 'Length',
      initial: '600',
      slider: byFactors(10, 5000),
      read: (text) => number('Length', text, 1, MAX_LENGTH, true),
      note: () => 'tokens at most',
    },
    {
      key: 'seed',
      label: 'Seed',
      initial: '1',
      read: seed,
      note: () => 'same seed, same text',
    },
  ];
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** The rows of settings inside `place`; `changed(settled)` is called at each change (`settled`: by a click or a key). */
export class Controls {
  constructor(place, V, changed) {
    this.rows = definitions(V).map((definition) => this.#row(definition, changed));
    place.replaceChildren(...this.rows.map((row) => row.element));
    for (const row of this.rows) row.set(row.initial);
  }

  #row(definition, changed) {
    const { key, label, slider, note } = definition;
    const id = `set-${key}`;
    const field = element('input', { id, type: 'text', inputMode: slider ? 'decimal' : 'numeric', autocomplete: 'off' });
    field.setAttribute('aria-describedby', `${id}-note`);
    const remark = element('span', { className: 'note', id: `${id}-note` });
    const range = slider && element('input', { type: 'range', min: '0', max: '1000', step: '1' });
    range?.setAttribute('aria-label', label);
    const row = { ...definition, field };
    row.show = () => {
      try {
        const value = definition.read(field.value);
        remark.textContent = note(value);
        field.removeAttribute('aria-invalid');
        if (range) {
          range.value = String(slider.toPlace(value));
          const place = Math.min(Math.max(slider.toPlace(value), 0), 1000) / 10;
          range.style.setProperty('--filled', `${place}%`);
          range.setAttribute('aria-valuetext', `${field.value}, ${remark.textContent}`);
        }
      } catch {
        remark.textContent = 'not a value';
        field.setAttribute('aria-invalid', 'true');
      }
    };
    row.set = (text) => {
      field.value = text;
      row.show();
    };
    field.addEventListener('input', () => {
      row.show();
      changed();
    });
    range?.addEventListener('input', () => {
      row.set(slider.toValue(Number(range.value)));
      changed();
    });
    const head = element('div', { className: 'row-head' }, element('label', { htmlFor: id, textContent: label }), remark);
    if (range) head.append(field);
    else {
      const dice = element('button', { type: 'button', textContent: 'Another', title: 'Another seed' });
      dice.addEventListener('click', () => {
        row.set(String(crypto.getRandomValues(new Uint32Array(1))[0] % 100_000));
        changed();
      });
      head.append(element('span', { className: 'with-button' }, field, dice));
    }
    row.element = element('div', { className: `row row-${key}` }, head, ...(range ? [range] : []));
    return row;
  }

  /** Return the settings for the model; throws a HostError if a field holds no valid value. */
  settings() {
    const { temperature, top_k: topK, top_p: topP, length, seed: value } = Object.fromEntries(
      this.rows.map((row) => [row.key, row.read(row.field.value)]),
    );
    const greedy = temperature === 0;
    return {
      maxNewTokens: length,
      doSample: !greedy,
      temperature: greedy ? 1 : temperature,
      topK,
      topP,
      seed: value,
    };
  }

  /** Return the settings as texts by their names in the URL. */
  texts() {
    return Object.fromEntries(this.rows.map((row) => [row.key, row.field.value.trim()]));
  }

  /** Apply `texts`; settings that it does not contain get their initial values. */
  setTexts(texts) {
    for (const row of this.rows) row.set(texts[row.key] ?? row.initial);
  }

  /** Return a summary in one line, for narrow screens. */
  summary() {
    const { temperature, top_p: topP, top_k: topK, seed: value } = this.texts();
    const parts = [temperature === '0' ? 'greedy' : `temperature ${temperature}`];
    if (topP !== '1') parts.push(`top-p ${topP}`);
    if (topK !== '0') parts.push(`top-k ${topK}`);
    return [...parts, `seed ${value}`].join(' · ');
  }
}

/** Encode prompt and settings as the fragment of a URL. */
export function toHash(prompt, texts) {
  return `#${new URLSearchParams({ prompt, ...texts })}`;
}

/** Decode a fragment: `{prompt, texts}`; prompt is null if the URL contains none. */
export function fromHash(hash) {
  const { prompt = null, ...texts } = Object.fromEntries(new URLSearchParams(hash.slice(1)));
  return { prompt, texts };
}
