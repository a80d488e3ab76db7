import { html } from "../lib.js"; export const Training = () => html`<p>training</p>`;
