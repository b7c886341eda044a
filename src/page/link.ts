/** The fragment of the address says which view is open and with what: `#score?text=…&max_steps=3`. Nothing of it is ever sent. */

export interface Place {
  readonly view: string;
  readonly params: URLSearchParams;
}

/** Past this a link would be cut by mail programs and chats; the page still works, but its text is not in the address. */
const LINK_LENGTH_MAX = 32_000;

export function readPlace(fragment: string): Place {
  const [view = '', query = ''] = splitOnce(fragment.replace(/^#/, ''), '?');
  return { view, params: new URLSearchParams(query) };
}

/** Parameters whose value is null are at their default and left out. */
export function placeOf(view: string, values: Readonly<Record<string, string | number | null>>): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value !== null) params.set(name, String(value));
  const query = params.toString();
  const fragment = query === '' ? `#${view}` : `#${view}?${query}`;
  return fragment.length <= LINK_LENGTH_MAX ? fragment : `#${view}`;
}

/** The text of a field for a link: nothing, where it is the one that the page comes with. */
export function linkedText({ value, defaultValue }: HTMLTextAreaElement): string | null {
  return value === defaultValue ? null : value;
}

/** Replaces the address without a step in the browser's history: moving a slider is no navigation. */
export function writePlace(fragment: string): void {
  if (location.hash !== fragment) history.replaceState(null, '', fragment);
}

/** A number of the parameters within its limits, or null. */
export function numberParam(params: URLSearchParams, name: string, min: number, max: number): number | null {
  const value = Number(params.get(name) ?? Number.NaN);
  return Number.isFinite(value) && value >= min && value <= max ? value : null;
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}
