// An error in a file, a prompt or a setting, in one line for the user.
export class HostError extends Error {}

/** Format a value for an error: quoted, on one line, shortened. */
export function shown(value) {
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}
