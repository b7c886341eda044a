import { Readable, Writable } from 'node:stream';
import type { CommandIo, OutputStream } from '../../src/cli/command.js';

/** A stream that remembers what was written. */
export class Recorder extends Writable implements OutputStream {
  text = '';
  columns = 80;

  constructor(readonly isTTY: boolean = false) {
    super({ decodeStrings: false, defaultEncoding: 'utf8' });
  }

  override _write(chunk: string | Buffer, _encoding: BufferEncoding, callback: () => void): void {
    this.text += chunk.toString();
    callback();
  }
}

export interface RecordedIo extends CommandIo {
  readonly stdout: Recorder;
  readonly stderr: Recorder;
}

export function recordedIo({
  stdin = '',
  isTTY = false,
}: {
  stdin?: string | Buffer;
  isTTY?: boolean;
} = {}): RecordedIo {
  return { stdout: new Recorder(isTTY), stderr: new Recorder(isTTY), stdin: Readable.from([Buffer.from(stdin)]) };
}
