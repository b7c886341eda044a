/** Light, dark, or as the system is. Loaded before the first paint, so that a choice never flashes. */
const STORED = 'ponder-theme';
const THEMES = ['auto', 'light', 'dark'] as const;
type Theme = (typeof THEMES)[number];

function stored(): Theme {
  const value = localStorage.getItem(STORED);
  return THEMES.find((theme) => theme === value) ?? 'auto';
}

function apply(theme: Theme): void {
  document.documentElement.dataset.theme = theme;
}

/** A button that goes round the themes and says which one is on. */
export function bindTheme(button: HTMLButtonElement): void {
  const show = (theme: Theme): void => {
    apply(theme);
    button.textContent = `Theme: ${theme}`;
  };
  show(stored());
  button.addEventListener('click', () => {
    const next = THEMES[(THEMES.indexOf(stored()) + 1) % THEMES.length] ?? 'auto';
    localStorage.setItem(STORED, next);
    show(next);
  });
}

apply(stored());
