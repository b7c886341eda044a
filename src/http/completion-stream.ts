/** What hears of a generation while it runs: it writes the events of a stream, or only looks for stop strings. */
import type { GenerateListener } from '../engine/engine.js';
import type { Tokenizer } from '../tokenize/types.js';
import { ChoiceWriter } from './completion-choice.js';
import type { CompletionEvents } from './completion-events.js';
import type { Prompt } from './completion-prompts.js';
import type { CompletionSettings } from './completion-settings.js';
import { TextStream } from './text-stream.js';

/** @param prompts one for each choice */
export function eventWriter(
  events: CompletionEvents,
  prompts: readonly Prompt[],
  tokenizer: Tokenizer,
  settings: CompletionSettings,
): GenerateListener {
  const writers = prompts.map(() => new ChoiceWriter(tokenizer, settings));
  const writer = (index: number): ChoiceWriter => writers[index] as ChoiceWriter;
  const begun = prompts.map(() => false);
  const echo = (index: number, scores: Parameters<GenerateListener['prompt']>[1] | null): void => {
    if (!settings.echo || begun[index]) return;
    begun[index] = true;
    const { ids, implied } = prompts[index] as Prompt;
    ids.forEach((id, i) => {
      events.add(index, writer(index).promptToken(id, i === 0 ? null : scores, i - implied));
    });
    events.add(index, writer(index).endPrompt());
  };
  return {
    prompt: echo,
    token(index, token) {
      // Without log-probabilities the engine says nothing of the prompt.
      echo(index, null);
      const { stopped, ...piece } = writer(index).token(token.ids[0] as number, token, 0);
      events.add(index, piece);
      return stopped;
    },
    sequence(index, { finishReason }) {
      echo(index, null);
      events.add(index, writer(index).end(), finishReason);
    },
  };
}

/** Ends each sequence at its stop string; the reply is written from the whole afterwards. */
export function stopWatch(
  choices: number,
  tokenizer: Tokenizer,
  { stops, stopIds }: CompletionSettings,
): GenerateListener {
  const texts = Array.from({ length: choices }, () => new TextStream(stops));
  return {
    prompt() {},
    token(index, { ids }) {
      const id = ids[0] as number;
      return stopIds.includes(id) ? false : (texts[index] as TextStream).push(tokenizer.textBytes(id)).stopped;
    },
    sequence() {},
  };
}
