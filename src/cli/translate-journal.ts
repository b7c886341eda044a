/**
 * Makes a long translation survive its end by a signal, a crash or a power cut. Beside the output grows a journal, OUTPUT.part:
 *
 *   {"ponder_serve_translate": 1, "input": {...}, "settings": {...}}     what was asked, with a hash of the text
 *   {"index": 0, ...}                                                  one line a sentence, in order
 *   {"index": 1, ...}
 *
 * A line counts when it is whole and has the next index; what follows the last one that counts is cut off, and the run goes on
 * there. The output is made from the journal at the end, under another name, and appears at once. It is the same to the byte as
 * without an interruption, since a sentence's translation depends on nothing but itself.
 */
import { createReadStream } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { monotonicMs } from '../clock.js';
import { CommandError } from './command.js';

const FORMAT = 1;
/** A power cut loses this much work at most. */
const SYNC_MS = 1000;
const WRITE_UNITS = 65_536;
const SUFFIXES = { journal: '.part', temporary: '.tmp' } as const;

/** What the names of the files that a run makes beside its output end in. */
export const FILES_BESIDE: readonly string[] = Object.values(SUFFIXES);

export interface JournalHeader {
  readonly input: { readonly sha256: string; readonly bytes: number };
  /** Everything that the output depends on beside the input. */
  readonly settings: Readonly<Record<string, string | number | null>>;
}

/** JSON on one line; what Node takes for line ends is written as an escape. */
export function jsonLine(value: object): string {
  return `${JSON.stringify(value)
    .replace(/\u2028/g, '\\u2028')
    .replace(/\u2029/g, '\\u2029')}\n`;
}

/** Any object with its place. */
export type JournalRecord = Readonly<Record<string, unknown>> & { readonly index: number };

export class Journal {
  private syncedAtMs = monotonicMs();
  /** Bytes. */
  private at = 0;
  private closed = false;

  private constructor(
    readonly path: string,
    private readonly output: string,
    private readonly file: FileHandle,
    private count: number,
  ) {}

  /**
   * Opens the journal of `output`, or begins one.
   * @throws CommandError when there is one of another input or of other settings, or it can't be written
   */
  static async open(output: string, header: JournalHeader): Promise<Journal> {
    const path = output + SUFFIXES.journal;
    const found = await readJournal(path);
    if (found.header !== null) refuseOther(found.header, header, path);
    try {
      const file = await open(path, found.header === null ? 'w' : 'r+');
      const journal = new Journal(path, output, file, found.records);
      if (found.header === null) await journal.line({ ponder_serve_translate: FORMAT, ...header }, 0);
      else await journal.cut(found.bytes);
      return journal;
    } catch (error) {
      throw cannotWrite(path, error);
    }
  }

  /** Sentences that are in it. */
  get records(): number {
    return this.count;
  }

  private async cut(bytes: number): Promise<void> {
    await this.file.truncate(bytes);
    this.at = bytes;
  }

  private async line(value: object, at: number): Promise<void> {
    const bytes = Buffer.from(jsonLine(value));
    for (let done = 0; done < bytes.length; ) {
      done += (await this.file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
    }
    this.at = at + bytes.length;
  }

  async append(record: JournalRecord): Promise<void> {
    if (record.index !== this.count) throw new Error(`record ${record.index} where ${this.count} comes next`);
    try {
      await this.line(record, this.at);
      this.count++;
      if (monotonicMs() - this.syncedAtMs < SYNC_MS) return;
      await this.file.datasync();
      this.syncedAtMs = monotonicMs();
    } catch (error) {
      throw cannotWrite(this.path, error);
    }
  }

  /** Keeps what there is, for the next run. A second call does nothing. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.file.datasync();
    await this.file.close();
  }

  /** Makes the output, line by line, and takes the journal away. `render` gets each line with its record. */
  async finish(render: (record: JournalRecord, line: string) => string, rest: string): Promise<void> {
    await this.close();
    const temporary = this.output + SUFFIXES.temporary;
    try {
      const file = await open(temporary, 'w');
      let pending = '';
      let isHeader = true;
      for await (const { line } of lines(this.path)) {
        if (!isHeader) pending += render(JSON.parse(line) as JournalRecord, line);
        isHeader = false;
        if (pending.length < WRITE_UNITS) continue;
        await file.appendFile(pending);
        pending = '';
      }
      await file.appendFile(pending + rest);
      await file.datasync();
      await file.close();
      await rename(temporary, this.output);
      await rm(this.path);
    } catch (error) {
      throw cannotWrite(this.output, error);
    }
  }
}

/** A journal's whole lines: its header, how many records follow, and where they end. */
async function readJournal(path: string): Promise<{ header: JournalHeader | null; records: number; bytes: number }> {
  let header: JournalHeader | null = null;
  let records = 0;
  let bytes = 0;
  try {
    for await (const { line, whole } of lines(path)) {
      const value = whole ? parsed(line) : null;
      if (header === null) {
        if (value?.ponder_serve_translate !== FORMAT) break;
        header = value as unknown as JournalHeader;
      } else {
        if (value?.index !== records) break;
        records++;
      }
      bytes += Buffer.byteLength(line) + 1;
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      throw new CommandError(`cannot read ${path} (${(error as NodeJS.ErrnoException).code}): delete it to start anew`);
    }
    return { header: null, records: 0, bytes: 0 };
  }
  if (header === null && (await sizeOf(path)) > 0) {
    throw new CommandError(`${path} is no journal of an interrupted run: delete it, or choose another --output`);
  }
  return { header, records, bytes };
}

async function sizeOf(path: string): Promise<number> {
  const file = await open(path);
  try {
    return (await file.stat()).size;
  } finally {
    await file.close();
  }
}

/** Lines that end with a line feed are `whole`; readline drops the difference, so the last one is told by a look ahead. */
async function* lines(path: string): AsyncGenerator<{ line: string; whole: boolean }> {
  const size = await sizeOf(path);
  let at = 0;
  for await (const line of createInterface({
    input: createReadStream(path, 'utf8'),
    crlfDelay: Number.POSITIVE_INFINITY,
  })) {
    at += Buffer.byteLength(line) + 1;
    yield { line, whole: at <= size };
  }
}

function parsed(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

function refuseOther(found: JournalHeader, wanted: JournalHeader, path: string): void {
  const anew = `or delete ${path} to start anew`;
  if (found.input?.sha256 !== wanted.input.sha256) {
    throw new CommandError(`${path} was begun with another text: translate that one, choose another --output, ${anew}`);
  }
  const names = Object.keys({ ...found.settings, ...wanted.settings });
  const differing = names.filter((name) => (found.settings?.[name] ?? null) !== (wanted.settings[name] ?? null));
  if (differing.length === 0) return;
  const shown = differing.map((name) => `${name} ${found.settings?.[name]}, now ${wanted.settings[name]}`);
  throw new CommandError(`${path} was begun with other settings (${shown.join('; ')}): run with those, ${anew}`);
}

function cannotWrite(path: string, error: unknown): Error {
  const { code } = error as NodeJS.ErrnoException;
  if (code === undefined) return error as Error;
  return new CommandError(
    `cannot write ${path} (${code}): check the folder and the space left, or choose another --output`,
  );
}
