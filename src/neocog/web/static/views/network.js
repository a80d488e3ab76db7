import { html } from "../lib.js"; export const Network = () => html`<p>network</p>`;
