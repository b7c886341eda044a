/**
 * A helper process that answers one request at a time. Benchmarks need some: ONNX Runtime has one environment a process, so two ways
 * of using it are measured in two processes, of which one is always asleep.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { CommandError } from './command.js';

type Answer<Reply> = { readonly reply: Reply } | { readonly failure: string };

/** The parent's end. Typed arrays cross as they are. */
export class Helper<Request extends object, Reply> {
  private readonly child: ChildProcess;
  private waiting: { resolve: (reply: Reply) => void; reject: (error: Error) => void } | null = null;
  private ended: string | null = null;

  constructor(
    script: URL,
    private readonly what: string,
  ) {
    // Its standard output is not ours: ours is the result.
    this.child = fork(script, [], { serialization: 'advanced', stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    this.child.on('message', (answer: Answer<Reply>) => {
      if ('failure' in answer) this.waiting?.reject(new CommandError(`${what}: ${answer.failure}`));
      else this.waiting?.resolve(answer.reply);
      this.waiting = null;
    });
    this.child.on('exit', (code, signal) => {
      this.ended = `${what} ended (${signal ?? `exit code ${code}`})`;
      this.waiting?.reject(new CommandError(this.ended));
      this.waiting = null;
    });
  }

  /** @throws CommandError when the helper fails or dies */
  ask(request: Request): Promise<Reply> {
    if (this.waiting !== null) throw new Error(`${this.what} is asked twice at a time`);
    if (this.ended !== null) return Promise.reject(new CommandError(this.ended));
    return new Promise((resolve, reject) => {
      this.waiting = { resolve, reject };
      this.child.send(request);
    });
  }

  async end(): Promise<void> {
    if (this.ended !== null) return;
    const exited = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.disconnect();
    // It leaves when it sees that we did; one that hangs in native code does not.
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 5000);
    await exited;
    clearTimeout(timer);
  }
}

/** The helper's end: answers until the parent disconnects. */
export function answerParent<Request extends object, Reply>(answer: (request: Request) => Promise<Reply>): void {
  process.on('message', async (request: Request) => {
    let result: Answer<Reply>;
    try {
      result = { reply: await answer(request) };
    } catch (error) {
      result = { failure: error instanceof Error ? error.message : String(error) };
    }
    if (process.connected) process.send?.(result);
  });
  process.once('disconnect', () => process.exit(0));
}
