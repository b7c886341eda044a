/** `ponder-serve inspect MODEL`: what a package says about itself, and whether its files are the ones it was written with. */
import { basename, dirname, join, resolve } from 'node:path';
import { parseConfig } from '../config.js';
import { type AdaptiveSpanManifest, type Manifest, PackageError } from '../models/manifest.js';
import { type PackageFacts, packageFacts } from '../models/registry.js';
import { type CommandIo, EXIT, parseFlags, runCommand, UsageError, write } from './command.js';
import { grouped, printable, table } from './terminal.js';

const FLAGS = { json: 'switch', help: 'switch' } as const;

export const USAGE = `Usage: ponder-serve inspect MODEL [--json] [--models FOLDER]

Prints the facts of a model package and verifies its files. MODEL is a name within the models folder, or the path of a
package. Exits with 1 when the package is damaged.
`;

export function run(
  argv: string[],
  io: CommandIo,
  _stop?: AbortSignal,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<number> {
  return runCommand('inspect', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    const [model, ...more] = positionals;
    if (model === undefined) throw new UsageError('MODEL is missing: give the name or the path of a package');
    if (more.length > 0) throw new UsageError(`one MODEL at a time, not also ${more.join(' ')}`);
    const { models } = parseConfig(serverOptions, env);
    const isPath = model.includes('/');
    const facts = await factsOf(isPath ? dirname(resolve(model)) : models, isPath ? basename(resolve(model)) : model);
    await write(io.stdout, values.json !== undefined ? renderJson(facts) : renderFacts(facts));
    const problems = problemsOf(facts);
    if (problems.length === 0) return EXIT.ok;
    io.stderr.write(`ponder-serve inspect: ${problems.join('; ')}: re-export or restore the package\n`);
    return EXIT.failed;
  });
}

/** A server names the package that it refuses; here nothing else says whose manifest it is. */
async function factsOf(models: string, name: string): Promise<PackageFacts> {
  try {
    return await packageFacts(models, name);
  } catch (error) {
    if (!(error instanceof PackageError) || !error.message.startsWith('manifest.json')) throw error;
    throw new PackageError(`${join(models, name)}/${error.message}`);
  }
}

function problemsOf({ files }: PackageFacts): string[] {
  return files.flatMap(({ file, problem }) => (problem === null ? [] : [`${file} ${problem}`]));
}

/** The manifest as it is, with the outcome beside it. */
function renderJson(facts: PackageFacts): string {
  const { folder, manifest } = facts;
  const problems = problemsOf(facts);
  return `${JSON.stringify({ folder, verified: problems.length === 0, problems, manifest }, null, 2)}\n`;
}

function renderFacts(facts: PackageFacts): string {
  const { folder, manifest, files } = facts;
  const problems = problemsOf(facts).length;
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  return [
    table([
      ['name', manifest.name],
      ['folder', folder],
      ['family', `${manifest.family}, task ${manifest.task}, language ${printable(manifest.language)}`],
      ['parameters', grouped(manifest.parameters)],
      ...familyRows(manifest),
      ['precisions', Object.keys(manifest.precisions).join(', ')],
    ]),
    manifest.family === 'adaptive-span' ? renderSpans(manifest) : '',
    section('quality', manifest.quality),
    section('provenance', manifest.provenance),
    `\nfiles\n${indent(
      table(
        files.map(({ file, bytes, problem }) => [file, grouped(bytes), problem ?? 'ok']),
        [1],
      ),
    )}`,
    `\n${files.length} files, ${grouped(bytes)} bytes: ${problems === 0 ? 'verified' : `${problems} damaged`}\n`,
  ].join('');
}

function familyRows(manifest: Manifest): string[][] {
  const { d_model, heads, d_ff } = manifest.dimensions;
  const width = `width ${d_model}, heads ${heads}, feed-forward ${d_ff}`;
  switch (manifest.family) {
    case 'universal-transformer': {
      const { dimensions, tokens, halting } = manifest;
      const { act_type, halted_state, forced_stop } = halting;
      return [
        ['dimensions', width],
        ['vocabulary', `${grouped(dimensions.vocab)} (begin ${tokens.bos}, end ${tokens.eos}, padding ${tokens.pad})`],
        ['context', `${dimensions.context} positions`],
        [
          'halting',
          `at most ${halting.max_steps} steps, threshold ${halting.threshold}; ${act_type}, ${halted_state}, ${forced_stop}`,
        ],
      ];
    }
    case 'adaptive-span': {
      const { layers, vocab, span_max, ramp } = manifest.dimensions;
      return [
        ['dimensions', `${layers} layers, ${width}`],
        ['vocabulary', `${grouped(vocab)} (${manifest.tokenizer})`],
        ['span', `${manifest.span.kind}, at most ${span_max} keys, ramp ${ramp}`],
      ];
    }
    default:
      return manifest satisfies never;
  }
}

/** Keys of each head; heads in a group share a pool as long as the widest. */
function renderSpans({ span }: AdaptiveSpanManifest): string {
  const rows = span.keys.map((keys, layer) => {
    const groups = (span.groups[layer] ?? []).map(({ heads, span }) => `${heads.length} x ${span}`);
    return [`layer ${layer}`, ...keys.map(String), groups.join(' + ')];
  });
  const heads = (span.keys[0] ?? []).map((_, head) => `head ${head}`);
  const right = heads.map((_, i) => i + 1);
  return `\nkeys of each head, and of the pools that heads share\n${indent(table([['', ...heads, 'pools'], ...rows], right))}`;
}

/** Free-form facts, nested objects as dotted names. */
function section(title: string, facts: Readonly<Record<string, unknown>>): string {
  const rows = flatten(facts);
  return rows.length === 0 ? '' : `\n${title}\n${indent(table(rows))}`;
}

function flatten(value: Readonly<Record<string, unknown>>, prefix = ''): string[][] {
  return Object.entries(value).flatMap(([key, fact]) => {
    const name = `${prefix}${key}`;
    if (typeof fact === 'object' && fact !== null && !Array.isArray(fact)) {
      return flatten(fact as Readonly<Record<string, unknown>>, `${name}.`);
    }
    const text = typeof fact === 'string' ? fact : JSON.stringify(fact);
    return [[oneLine(name), oneLine(text)]];
  });
}

function oneLine(text: string): string {
  return printable(text).replace(/\s+/g, ' ');
}

function indent(lines: string): string {
  return lines.replace(/^(?=.)/gm, '  ');
}
