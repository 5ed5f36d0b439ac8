"""The audit's HTML: one file, no fetches. Decisions live in the browser until they are saved as JSON lines."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Weak labels, page {{PAGE}}</title>
<style>
body { font: 16px/1.45 sans-serif; margin: 0 auto; max-width: 80rem; padding: 1rem; }
body { background: #16181c; color: #e8e8e8; }
a { color: #8cc4ff; } b { padding: 0 .2rem; }
header { position: sticky; top: 0; background: #16181c; padding: .5rem 0; border-bottom: 1px solid #444; z-index: 1; }
article { border: 1px solid #444; border-left: .6rem solid #777; border-radius: 4px; }
article { margin: 1rem 0; padding: .4rem 1rem; }
article[data-verdict=accept] { border-left-color: #4caf50; }
article[data-verdict=reject] { border-left-color: #e05555; }
article:focus { outline: 2px solid #8cc4ff; }
h2 { font-size: 1rem; margin: .2rem 0; color: #aaa; } blockquote { font-size: 1.15rem; margin: .3rem 0; }
img { width: 100%; height: auto; } p { margin: .4rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .8rem; margin: .3rem 0; font-size: .9rem; }
dt { color: #aaa; } dd { margin: 0; }
button { font: inherit; padding: .25rem .9rem; cursor: pointer; }
td, th { text-align: left; vertical-align: top; padding: .2rem .6rem; border-bottom: 1px solid #333; font-size: .9rem; }
</style></head><body>
<header>{{COUNT}} labels. Pages: {{LINKS}}.
<button id="save">save decisions of this page</button> <span id="tally"></span>
<br><small>Keys: a accept, r reject, j next, k previous. Lay the saved file into this folder: the next
<code>vol3d weak-label</code> honours it.</small></header>
{{CARDS}}
{{REFUSED}}
<script>
const page = "{{PAGE}}", cards = [...document.querySelectorAll("article")];
const key = card => "vol3d-audit:" + card.dataset.id + ":" + card.dataset.mask;
function store(card, say, time) {
  try { localStorage.setItem(key(card), say + " " + time); } catch (error) { /* private window */ }
}
function stored(card) {
  try { return (localStorage.getItem(key(card)) || "").split(" "); } catch (error) { return [""]; }
}
function tally() {
  const count = say => cards.filter(card => card.dataset.verdict === say).length;
  document.getElementById("tally").textContent =
    `${count("accept")} accepted, ${count("reject")} rejected, ${count("")} open`;
}
function show(card, say, time) { card.dataset.verdict = say; card.dataset.time = time; }
function decide(card, say) {
  const time = new Date().toISOString();
  show(card, say, time);
  store(card, say, time);
  tally();
}
cards.forEach(card => {
  const [say, time] = stored(card);  // of the browser and of the files the later one; without a time it is the earlier
  if (say && !(Date.parse(time || 0) < Date.parse(card.dataset.time))) show(card, say, time || "");
  card.querySelectorAll("button").forEach(b => b.addEventListener("click", () => decide(card, b.dataset.say)));
});
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const here = cards.indexOf(document.activeElement.closest("article"));
  if (event.key === "a" && here >= 0) decide(cards[here], "accept");
  if (event.key === "r" && here >= 0) decide(cards[here], "reject");
  const next = { j: here + 1, k: here - 1 }[event.key];
  if (next !== undefined && cards[next]) { cards[next].focus(); cards[next].scrollIntoView({ block: "start" }); }
});
document.getElementById("save").addEventListener("click", () => {
  const lines = cards.filter(card => card.dataset.verdict).map(card => JSON.stringify({
    id: card.dataset.id, mask: card.dataset.mask, study_id: card.dataset.study, decision: card.dataset.verdict,
    time: card.dataset.time || undefined }));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\\n") + (lines.length ? "\\n" : "")], { type: "text/plain" }));
  link.download = `decisions-${page}.jsonl`;
  link.click();
});
tally();
</script></body></html>
"""
