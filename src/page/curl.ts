/** The command line that asks the server what the page has just asked it. */

/** @param keyed whether the server wants a key: the command takes it from the environment, so that none is ever shown */
export function curl(url: string, body: object | null, keyed: boolean): string {
  const lines = [`curl -s ${quote(url)}`];
  if (keyed) lines.push(`-H "authorization: Bearer $PONDER_KEY"`);
  if (body !== null) lines.push(`-H 'content-type: application/json'`, `-d ${quote(JSON.stringify(body))}`);
  if (body !== null && 'stream' in body) lines[0] = lines[0]?.replace('curl -s', 'curl -sN') ?? '';
  return lines.join(' \\\n  ');
}

/** One argument for a POSIX shell: within single quotes nothing has a meaning but the quote itself. */
export function quote(argument: string): string {
  return `'${argument.replaceAll("'", `'\\''`)}'`;
}
