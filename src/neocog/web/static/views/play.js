import { html } from "../lib.js"; export const Play = () => html`<p>play</p>`;
