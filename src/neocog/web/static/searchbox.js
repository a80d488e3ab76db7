// One box for everything: words, filters, an example picture (dropped, pasted or chosen) and a region of it.
import { get, lib } from "./api.js";
import { RegionPicker } from "./canvas.js";
import { Dialog, Icon, html, say, useEffect, useLayoutEffect, useRef, useState } from "./lib.js";

export function SearchBox({ library, query, example, ask, setExample }) {
  const [text, setText] = useState(query);
  const [found, setFound] = useState(null); // {options, start, end}
  const [chosen, choose] = useState(-1);
  const [over, setOver] = useState(false);
  const [cutting, cut] = useState(false);
  const input = useRef();
  const file = useRef();
  const turn = useRef(0);
  useLayoutEffect(() => setText(query), [query]); // before anything can be typed

  const take = (picked) => {
    const one = [...(picked ?? [])].find((f) => /^(image|audio)\//.test(f.type));
    if (one) setExample({ file: one, url: URL.createObjectURL(one), name: one.name, sound: one.type.startsWith("audio/") });
    else if (picked?.length) say("That is neither a picture nor a recording.");
  };
  useEffect(() => {
    const carries = (e) => [...(e.dataTransfer?.types ?? [])].includes("Files");
    const enter = (e) => { if (carries(e)) { e.preventDefault(); setOver(true); } };
    const leave = (e) => { if (!e.relatedTarget) setOver(false); };
    const drop = (e) => { if (carries(e)) { e.preventDefault(); setOver(false); take(e.dataTransfer.files); } };
    const paste = (e) => { if (e.clipboardData?.files.length) { e.preventDefault(); take(e.clipboardData.files); } };
    const all = { dragenter: enter, dragover: enter, dragleave: leave, drop, paste };
    for (const [name, f] of Object.entries(all)) addEventListener(name, f);
    return () => { for (const [name, f] of Object.entries(all)) removeEventListener(name, f); };
  }, []);

  const complete = async (value, at) => {
    const mine = ++turn.current;
    try {
      const answer = value.trim() ? await get(lib(library, "complete"), { q: value, at }) : null;
      if (mine === turn.current) { setFound(answer?.options?.length ? answer : null); choose(-1); }
    } catch { if (mine === turn.current) setFound(null); }
  };
  const typed = (e) => {
    setText(e.target.value);
    void complete(e.target.value, e.target.selectionStart);
  };
  const shut = () => { turn.current++; setFound(null); };
  const accept = (option) => {
    const next = text.slice(0, found.start) + option.insert + text.slice(found.end);
    setText(next);
    shut();
    input.current.focus();
  };
  const pressed = (e) => {
    const last = found?.options.length ?? 0;
    if (e.key === "ArrowDown" && last) choose((chosen + 1) % last);
    else if (e.key === "ArrowUp" && last) choose(chosen < 0 ? last - 1 : chosen - 1);
    else if ((e.key === "Enter" || e.key === "Tab") && found && chosen >= 0) accept(found.options[chosen]);
    else if (e.key === "Escape" && found) shut();
    else return;
    e.preventDefault();
  };
  const submit = (e) => { e.preventDefault(); shut(); ask(text); };
  const id = (i) => `option-${i}`;
  return html`<form class="searchbox" role="search" onSubmit=${submit}>
    <div class="box">
      ${example && html`<span class="example">${example.sound ? html`<audio controls src=${example.url}></audio>` : html`<img src=${example.url} alt=""/>`}
        <span class="sr">${example.sound ? "Recordings" : "Pictures"} like ${example.name}${example.box ? ", the marked region" : ""}</span>
        ${!example.sound && html`<button type="button" class="icon plain" aria-label="Mark a region of the example" aria-pressed=${Boolean(example.box)} onClick=${() => cut(true)}><${Icon} name="crop"/></button>`}
        <button type="button" class="icon plain" aria-label="Remove the example" onClick=${() => setExample(null)}><${Icon} name="close"/></button></span>`}
      <input id="query" ref=${input} value=${text} onInput=${typed} onKeyDown=${pressed} onBlur=${() => setTimeout(shut, 150)}
        type="text" inputmode="search" enterkeyhint="search" autocomplete="off" autocapitalize="none" spellcheck=${false}
        placeholder=${example ? "and words, if you like" : "two dogs running on a beach"} aria-label="Search for"
        role="combobox" aria-expanded=${Boolean(found)} aria-controls="options" aria-autocomplete="list"
        aria-activedescendant=${found && chosen >= 0 ? id(chosen) : undefined}/>
      <input ref=${file} type="file" accept="image/*,audio/*" hidden onChange=${(e) => { take(e.target.files); e.target.value = ""; }}/>
      <button type="button" class="icon plain" aria-label="Search by a picture or a recording" title="Search by a picture or a recording: choose, drop or paste one" onClick=${() => file.current.click()}><${Icon} name="image"/></button>
      <button class="main" type="submit">Search</button>
    </div>
    <ul id="options" class="options" role="listbox" aria-label="Completions" hidden=${!found}>
      ${found?.options.map((o, i) => html`<li key=${o.insert} id=${id(i)} role="option" aria-selected=${i === chosen}
        onMouseDown=${(e) => { e.preventDefault(); accept(o); }}><span>${o.text}</span><small>${o.kind}</small></li>`)}
    </ul>
    ${over && html`<div class="dropping">Drop a picture or a recording to find others like it</div>`}
    ${cutting && html`<${Dialog} title="Mark what counts" close=${() => cut(false)}>
      <${RegionPicker} src=${example.url} box=${example.box} done=${(box) => { setExample({ ...example, box }); cut(false); }}/><//>`}
  </form>`;
}
