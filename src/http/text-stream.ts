/**
 * Text that comes token by token. A character whose bytes are spread over tokens is held back until it is whole; so is what could be
 * the beginning of a stop string. What is given out is final, and all of it together is what decoding the whole would give.
 *
 *     tokens     "He" "llo, w" "orl" "d"       stop string "world"
 *     given out  "He" "llo, "   -     (stopped)
 */
export interface TextStep {
  readonly text: string;
  /** A stop string is complete; the text ends before it, and nothing follows. */
  readonly stopped: boolean;
}

const NOTHING: TextStep = { text: '', stopped: false };

export class TextStream {
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  #held = '';
  #stopped = false;
  #codePoints = 0;

  constructor(private readonly stops: readonly string[]) {}

  /** Of all that was decoded, what is held back included. */
  get codePoints(): number {
    return this.#codePoints;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  push(bytes: Uint8Array): TextStep {
    return this.#add(this.#decoder.decode(bytes, { stream: true }));
  }

  /** No token follows: what was held back is text after all, and half a character is U+FFFD. */
  end(): TextStep {
    const { text, stopped } = this.#add(this.#decoder.decode());
    if (stopped) return { text, stopped };
    const rest = text + this.#held;
    this.#held = '';
    return { text: rest, stopped: false };
  }

  #add(added: string): TextStep {
    if (this.#stopped) return NOTHING;
    this.#codePoints += countCodePoints(added);
    const text = this.#held + added;
    const at = this.#firstStop(text);
    if (at >= 0) {
      this.#stopped = true;
      this.#held = '';
      return { text: text.slice(0, at), stopped: true };
    }
    const keep = this.#possibleStop(text);
    this.#held = text.slice(text.length - keep);
    return { text: text.slice(0, text.length - keep), stopped: false };
  }

  #firstStop(text: string): number {
    const places = this.stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    return places.length === 0 ? -1 : Math.min(...places);
  }

  /** Length of the longest end of the text that a stop string begins with. */
  #possibleStop(text: string): number {
    const longest = Math.max(0, ...this.stops.map(({ length }) => length - 1));
    for (let length = Math.min(longest, text.length); length > 0; length--) {
      const end = text.slice(-length);
      if (this.stops.some((stop) => stop.startsWith(end))) return length;
    }
    return 0;
  }
}

/** As Python counts characters. */
export function countCodePoints(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
