/** A view of the page. `open` restores what a link says; a view that is opened without parameters goes on with what it had. */
export interface View {
  open(params: URLSearchParams): void;
  close(): void;
}
