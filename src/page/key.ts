/** The API key, where the server wants one: asked for when it is needed, kept until the tab is closed, never shown. */
import { need } from './dom.js';

const STORED = 'ponder-key';

export function currentKey(): string | null {
  return sessionStorage.getItem(STORED);
}

export function forgetKey(): void {
  sessionStorage.removeItem(STORED);
}

/** One dialog serves all who wait for the key. */
let asking: Promise<string | null> | null = null;

/** @returns the key, or null when the dialog was closed without one */
export function askForKey(reason: string): Promise<string | null> {
  asking ??= openDialog(reason).finally(() => {
    asking = null;
  });
  return asking;
}

function openDialog(reason: string): Promise<string | null> {
  const dialog = need('key-dialog', HTMLDialogElement);
  const input = need('key-input', HTMLInputElement);
  need('key-reason', HTMLElement).textContent = reason;
  input.value = '';
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = (): void => {
      const key = dialog.returnValue === 'use' ? input.value.trim() : '';
      input.value = '';
      if (key !== '') sessionStorage.setItem(STORED, key);
      resolve(key === '' ? null : key);
    };
    dialog.addEventListener('close', closed, { once: true });
  });
}
