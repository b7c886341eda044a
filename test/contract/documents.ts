/** README's tables, made from the code. `documents.test.ts` compares them; `update-readme.ts` writes them. */
import { flagOf, OPTIONS, optionNames, variableOf } from '../../src/config.js';
import { ERRORS } from '../../src/errors.js';
import { fakeServer } from '../fakes.js';

/** The compiled tests lie three folders below the repository. */
export const README = new URL('../../../README.md', import.meta.url);

export type Tables = Readonly<Record<'options' | 'errors' | 'metrics' | 'endpoints', string>>;

export async function makeTables(): Promise<Tables> {
  const { app, deps } = await fakeServer();
  await app.ready();
  const document = app.swagger() as unknown as OpenApi;
  const metrics = deps.metrics.registry.getMetricsAsArray() as unknown as readonly Declared[];
  await app.close();
  return {
    options: table(
      ['Flag', 'Variable', 'Default', 'Allowed', 'Meaning'],
      optionNames().map((name) => {
        const { defaultShown, allowed, help } = OPTIONS[name];
        return [`\`${flagOf(name)}\``, `\`${variableOf(name)}\``, defaultShown, allowed, help];
      }),
    ),
    errors: table(
      ['Code', 'Status', 'Retry', 'Meaning'],
      Object.entries(ERRORS).map(([code, { status, retryable, help }]) => [
        `\`${code}\``,
        String(status),
        retryable ? 'yes' : 'no',
        help,
      ]),
    ),
    metrics: table(
      ['Name', 'Type', 'Labels', 'Meaning'],
      metrics.map(({ name, type, labelNames, help }) => [`\`${name}\``, type, labelNames.join(', '), help]),
    ),
    endpoints: table(
      ['Method', 'Path', 'What'],
      [
        ...Object.entries(document.paths).flatMap(([path, methods]) =>
          Object.entries(methods).map(([method, { summary }]) => [method.toUpperCase(), `\`${path}\``, summary]),
        ),
        ['GET', '`/docs`', 'This interface in the browser'],
        ['GET', '`/`', 'The playground'],
      ],
    ),
  };
}

export interface OpenApi {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

export interface Operation {
  readonly summary: string;
  readonly operationId?: string;
  readonly parameters?: readonly { readonly in: string; readonly name: string }[];
  readonly responses?: Readonly<Record<string, object>>;
  readonly description?: string;
  readonly requestBody?: {
    readonly content: Readonly<
      Record<string, { readonly examples?: Readonly<Record<string, { readonly value: unknown }>> }>
    >;
  };
}

/** What prom-client's metrics carry beside what its types say. */
interface Declared {
  readonly name: string;
  readonly type: string;
  readonly labelNames: readonly string[];
  readonly help: string;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replace(/\|/g, '\\|')).join(' | ')} |`;
  return [line(head), `|${head.map(() => '---|').join('')}`, ...rows.map(line)].join('\n');
}

/** The text between `<!-- table:NAME -->` and `<!-- /table:NAME -->`; null when the document has no such marks. */
export function tableIn(readme: string, name: string): string | null {
  return marked(name).exec(readme)?.[1] ?? null;
}

export function withTables(readme: string, tables: Tables): string {
  let text = readme;
  for (const [name, content] of Object.entries(tables)) {
    text = text.replace(marked(name), () => `<!-- table:${name} -->\n${content}\n<!-- /table:${name} -->`);
  }
  return text;
}

function marked(name: string): RegExp {
  return new RegExp(`<!-- table:${name} -->\\n([\\s\\S]*?)\\n?<!-- /table:${name} -->`);
}
