/** Opens the view that the address names, and keeps the two together. */
import { askJson, messageOf } from './api.js';
import type { Model } from './api-types.js';
import { need } from './dom.js';
import { readPlace } from './link.js';
import { bindTheme } from './theme.js';
import { LiveView } from './views/live.js';
import { ScoreView } from './views/score.js';
import { SpanView } from './views/span.js';
import { TranslateView } from './views/translate.js';
import type { View } from './views/view.js';

const FIRST = 'score';

async function start(): Promise<void> {
  bindTheme(need('theme', HTMLButtonElement));
  let models: readonly Model[] = [];
  try {
    models = (await askJson<{ data: Model[] }>('v1/models', null)).data;
  } catch (error) {
    const failure = need('failure', HTMLElement);
    failure.hidden = false;
    failure.textContent = messageOf(error);
  }
  const views: Readonly<Record<string, View>> = {
    score: new ScoreView(models),
    translate: new TranslateView(models),
    span: new SpanView(models),
    live: new LiveView(),
  };

  let open = '';
  const follow = (): void => {
    const { view: named, params } = readPlace(location.hash);
    const view = Object.hasOwn(views, named) ? named : FIRST;
    if (view !== open) views[open]?.close();
    open = view;
    for (const name of Object.keys(views)) {
      need(`view-${name}`, HTMLElement).hidden = name !== view;
      need(`to-${name}`, HTMLAnchorElement).toggleAttribute('aria-current', false);
    }
    need(`to-${view}`, HTMLAnchorElement).setAttribute('aria-current', 'page');
    document.title = `${need(`to-${view}`, HTMLAnchorElement).textContent} · ponder-serve`;
    views[view]?.open(params);
  };
  addEventListener('hashchange', follow);
  follow();
  document.documentElement.dataset.ready = 'true';
}

await start();
