import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { translateTexts } from '../../src/translate/translate-texts.js';
import { ByteTokenizer } from '../fakes.js';
import { MODEL, type Say, SETTINGS, SpeakingEngine } from './speaking-engine.js';

async function translate(text: string, say?: Say): Promise<{ text: string; engine: SpeakingEngine }> {
  const engine = new SpeakingEngine(say);
  const { texts } = await translateTexts(
    { engine, tokenizer: new ByteTokenizer(), model: MODEL },
    [{ text, param: 'q' }],
    { ...SETTINGS, format: 'html' },
    { signal: new AbortController().signal, deadlineAtMs: null },
  );
  return { text: texts[0]?.text ?? '', engine };
}

for (const [what, html, expected] of [
  ['blocks', '<h1>Hi there</h1>\n<p class="a b">One. Two.</p>', '<h1>HI THERE</h1>\n<p class="a b">ONE. TWO.</p>'],
  ['scripts and styles', '<style>p{a:b}</style><script>if (a<b) x("Hi.")</script>Hi', null],
  ['untranslated', '<p translate="no">Not me.</p><pre>nor\nme</pre><p>But me.</p>', null],
  ['notranslate', '<p class="x notranslate">Not <b>me</b>.</p>Me', null],
  [
    'comments',
    '<!-- a > b. Yes. --><p>Hi<!-- x --></p><!DOCTYPE html>',
    '<!-- a > b. Yes. --><p>HI<!-- x --></p><!DOCTYPE html>',
  ],
  [
    'attributes',
    '<img alt="Not me" src=x><a title="a>b" href="?a=1&amp;b">Hi</a>',
    '<img alt="Not me" src=x><a title="a>b" href="?a=1&amp;b">HI</a>',
  ],
  ['entities', 'Tom &amp; Jerry &lt;3 &eacute;t&#233;', 'TOM &amp; JERRY &lt;3 ÉTÉ'],
  ['line breaks', 'One<br>two<br/>three', 'ONE<br>TWO<br/>THREE'],
  ['whole sentences in tags', '<p><b>Hello you.</b> <i>And me.</i></p>', '<p><b>HELLO YOU.</b> <i>AND ME.</i></p>'],
  ['inline code', 'Use <code>npm i</code> now', 'USE <code>npm i</code> NOW'],
  ['broken', '<p>Hi <b there <i>you</p></b>', null],
  ['no closing', '<p>Hi <b>you', '<p>HI <b>YOU'],
] as [string, string, string | null][]) {
  test(`html: ${what}`, async () => {
    const { text } = await translate(html);
    if (expected !== null) assert.equal(text, expected);
    assert.deepEqual(tags(text), tags(html));
  });
}

function tags(html: string): string[] {
  return html.match(/<[^<>]*>/g) ?? [];
}

const GERMAN: Readonly<Record<string, string[]>> = {
  'Click the red button to start.': ['Zum Starten den roten Knopf drücken.'],
  red: ['red', 'rot'],
  start: ['Start', 'starten'],
  'Click the': ['Klicke die'],
  'button to': ['Knopf zu'],
};
const german: Say = (sentence) => GERMAN[sentence] ?? [sentence.toUpperCase()];

test('tags go around the words that are theirs, wherever these are', async () => {
  const { text, engine } = await translate('<p>Click the <b>red</b> button to <i>start</i>.</p>', german);
  assert.equal(text, '<p>Zum <i>Starten</i> den <b>roten</b> Knopf drücken.</p>');
  assert.deepEqual(engine.heard.sort(), ['Click the red button to start.', 'red', 'start']);
});

test('tags that nest stay nested, around the same words', async () => {
  const say: Say = (s) => [
    s.replace('good old friend', 'guter alter Freund').replace('old', 'alt').replace(/^A/, 'Ein'),
  ];
  const { text } = await translate('A <a href="x">good <b>old</b> friend</a> came', say);
  assert.equal(text, 'Ein <a href="x">guter <b>alter</b> Freund</a> came');
});

test('where the words are not found the runs between tags are translated apart', async () => {
  const say: Say = (s) => [s === 'It is very old.' ? 'Nichts davon.' : s.toUpperCase()];
  assert.equal((await translate('It is <b>very</b> old.', say)).text, 'IT IS <b>VERY</b> OLD.');
});

test('tags that cross stay in their order', async () => {
  assert.equal((await translate('A <i>b <b>c</i> d</b> e')).text, 'A <i>B <b>C</i> D</b> E');
});

test('the model cannot write markup', async () => {
  const { text } = await translate('<p>Hello</p>', () => ['<script>x</script> & <b>']);
  assert.equal(text, '<p>&lt;script&gt;x&lt;/script&gt; &amp; &lt;b&gt;</p>');
});

const PIECES = [
  ...[
    'Hello',
    ' ',
    'red cats. ',
    '<b>',
    '</b>',
    '<i>',
    '</i>',
    '<p>',
    '</p>',
    '<br>',
    '&amp;',
    '&lt;x&gt;',
    '<!-- c -->',
    '5',
  ],
  ...[
    '<code>',
    '</code>',
    '<img src="a">',
    '<a href="b c">',
    '</a>',
    '{x}',
    'http://a.b/c ',
    '🎉',
    '<script>',
    '</script>',
  ],
];

test('any document keeps its tags, each once; well nested ones stay so', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.constantFrom(...PIECES), { maxLength: 25 }), async (pieces) => {
      const html = pieces.join('');
      const { text } = await translate(html);
      assert.deepEqual(tags(text).sort(), tags(html).sort());
      assert.deepEqual(nests(text), nests(html));
    }),
    { numRuns: 300 },
  );
});

/** Whether tags close in the reverse order of their opening. */
function nests(html: string): boolean {
  const open: string[] = [];
  for (const tag of tags(html)) {
    const [, slash, name = ''] = /^<(\/?)(\w+)/.exec(tag) ?? [];
    if (slash === '/' && open.pop() !== name) return false;
    if (slash === '' && !['br', 'img'].includes(name)) open.push(name);
  }
  return open.length === 0;
}
