// What is wrong with a file, a prompt or a setting, in one line for the user.
export class HostError extends Error {}

/** A value as an error shows it: quoted, on one line, not too long. */
export function shown(value) {
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}
