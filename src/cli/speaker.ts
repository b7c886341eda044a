/** A continuation on the terminal: what is certain of the text is written as it comes, and what it cost in the end. */
import type { GenerateListener } from '../engine/engine.js';
import type { GeneratedTokens } from '../engine/protocol.js';
import { type ChoiceSettings, ChoiceWriter } from '../http/completion-choice.js';
import type { Completion } from '../http/completion-run.js';
import type { Tokenizer } from '../tokenize/types.js';
import { type CommandIo, write } from './command.js';
import { colourDepth, renderLegend, renderPiece } from './heatmap.js';
import { printable } from './terminal.js';

export class Speaker implements GenerateListener {
  private readonly choice: ChoiceWriter;
  private readonly isTTY: boolean;
  private readonly show: (piece: string, depth: number) => string;
  private depth = 0;
  private readonly startedAtMs = performance.now();

  /** @param heatmap the end of the scale of depths that colour the text; null: plain */
  constructor(
    settings: ChoiceSettings,
    tokenizer: Tokenizer,
    heatmap: { readonly maxSteps: number; readonly env: Readonly<Record<string, string | undefined>> } | null,
    private readonly io: CommandIo,
  ) {
    this.choice = new ChoiceWriter(tokenizer, settings);
    this.isTTY = io.stdout.isTTY === true;
    if (heatmap === null) {
      this.show = (piece) => (this.isTTY ? printable(piece) : piece);
      return;
    }
    const { maxSteps, env } = heatmap;
    const colours = colourDepth(this.isTTY, env);
    io.stdout.write(renderLegend(maxSteps, colours));
    this.show = (piece, depth) => renderPiece(piece, depth, maxSteps, colours);
  }

  prompt(): void {}

  token(_: number, token: GeneratedTokens): boolean {
    const { text, stopped } = this.choice.token(token.ids[0] as number, token, 0);
    // A character in several tokens shows the deepest of them.
    this.depth = Math.max(this.depth, token.depths[0] ?? 0);
    this.say(text);
    return stopped;
  }

  sequence(): void {
    this.say(this.choice.end().text);
  }

  private say(text: string): void {
    if (text === '') return;
    this.io.stdout.write(this.show(text, this.depth));
    this.depth = 0;
  }

  async finish({ sequences, usage, ponder }: Completion): Promise<void> {
    await write(this.io.stdout, '\n');
    const seconds = (performance.now() - this.startedAtMs) / 1000;
    const rate = (usage.completion_tokens / seconds).toFixed(0);
    const depth = ponder.mean > 0 ? `, mean depth ${ponder.mean.toFixed(2)}` : '';
    const end = sequences[0]?.finishReason === 'stop' ? 'the text ended' : 'cut at --max-tokens or the context';
    this.io.stderr.write(`${usage.completion_tokens} tokens${depth}, ${rate} tokens/s, ${end}\n`);
  }
}
