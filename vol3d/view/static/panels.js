// The tabs: report, findings, measurements. All text is set as text, never as markup.
const FIGURES = [ // key, head, digits, unit
  ["probability", "prob", 2, ""], ["volume_ml", "volume", 1, "ml"], ["longest_diameter_mm", "long", 1, "mm"], ["short_diameter_mm", "short", 1, "mm"],
  ["slice", "slice", 0, ""], ["suv_max", "max", 2, "SUV"], ["suv_mean", "mean", 2, "SUV"], ["suv_peak", "peak", 2, "SUV"], ["tlg_g", "TLG", 1, "g"],
];
const ORIGINS = { report: "Lesions of the report", segmentation: "Asked for", findings: "Findings" };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

function slug(text) { return String(text).replaceAll(" ", "-"); }
function badge(status) { return make("span", { class: `badge ${slug(status)}` }, status); }
function dot(colour) {
  const element = make("span", { class: "dot" });
  element.style.background = colour;
  return element;
}
function percent(value) { return value === null || value === undefined ? "\u2013" : `${(100 * value).toFixed(0)}%`; }
function figure(value, digits) { return typeof value === "number" ? value.toFixed(digits) : "\u2013"; }

function reportPanel(record, view) {
  const { report, masks } = record, panel = make("div", { class: "panel" });
  const paragraph = (title, lines) => lines?.length && panel.append(make("h2", {}, title), ...lines.map(line => make("p", {}, line)));
  const context = report.context ?? {};
  paragraph("Indication", context.indication ? [context.indication] : []);
  paragraph("Technique", report.technique ? [report.technique] : []);
  paragraph("Comparison", [context.comparison, report.change?.statement, ...(report.change?.lesions ?? []).map(l => l.text)].filter(Boolean));
  const sections = [...new Set(report.sentences.map(s => s.section))];
  for (const section of [...sections.filter(s => s !== "impression"), ...sections.filter(s => s === "impression")]) {
    panel.append(make("h2", {}, section));
    report.sentences.forEach((sentence, number) => sentence.section === section && panel.append(sentenceOf(sentence, number, masks, view)));
  }
  paragraph("Not assessed", report.not_assessed);
  if (record.made.writer) panel.append(make("p", { class: "quiet small" }, `Drafted by ${record.made.writer}; every number is measured in a mask.`));
  return panel;
}

function sentenceOf(sentence, number, masks, view) {
  const flagged = sentence.status !== "supported", linked = sentence.masks.length > 0;
  const sure = typeof sentence.probability === "number" ? `probability ${sentence.probability.toFixed(2)}` : "";
  const element = make("div", {
    class: `sentence ${linked ? "linked" : ""} ${flagged ? `flagged ${slug(sentence.status)}` : ""}`,
    role: "button", tabindex: "0", "data-sentence": number, "data-status": sentence.status,
    title: [sentence.status, sentence.reason, sure].filter(Boolean).join("; "), onclick: () => view.readSentence(number),
  }, make("span", { class: "said" }, sentence.text));
  if (flagged) element.append(make("span", { class: "why" }, badge(sentence.status), " ", [sentence.reason, sure].filter(Boolean).join("; ")));
  if (sentence.masks.length > 1) {
    const chips = sentence.masks.map((id, i) => make("button", {
      class: "chip", "data-mask": id, onclick: event => { event.stopPropagation(); view.readSentence(number, i); },
    }, dot(masks[id].colour), `${i + 1}`));
    element.append(make("span", { class: "chips" }, ...chips));
  }
  return element;
}

function findingsPanel(record, view) {
  const panel = make("div", { class: "panel" });
  for (const finding of record.findings) {
    const { operating_point: point, spread } = finding;
    const threshold = finding.threshold === null ? [] : [make("u", { title: `threshold ${finding.threshold.toFixed(2)}` })];
    const bar = make("div", { class: `bar ${slug(finding.state)}` }, make("i"), make("s"), ...threshold);
    const at = value => `${100 * Math.min(Math.max(value, 0), 1)}%`;
    bar.children[0].style.width = at(finding.probability);
    bar.children[1].style.left = at(spread?.low ?? 0);
    bar.children[1].style.width = at((spread?.high ?? 0) - (spread?.low ?? 0));
    if (bar.children[2]) bar.children[2].style.left = at(finding.threshold);
    const share = (value, count) => (typeof value === "number" ? percent(value) : "unknown") + (typeof count === "number" ? ` of ${count}` : "");
    panel.append(make("div", {
      class: `finding ${finding.mask === null ? "" : "linked"}`, "data-finding": finding.name, "data-mask": finding.mask, tabindex: finding.mask === null ? null : "0",
      onclick: () => finding.mask !== null && view.select(finding.mask),
    },
      make("div", { class: "top" }, make("b", {}, finding.mask === null ? "" : dot(record.masks[finding.mask].colour), finding.name), badge(finding.state)),
      bar,
      make("div", { class: "small" }, `probability ${figure(finding.probability, 2)}`, spread ? `, wordings ${figure(spread.low, 2)} to ${figure(spread.high, 2)}` : "", `, threshold ${figure(finding.threshold, 2)}`),
      make("div", { class: "small quiet" }, point ? `operating point ${point.name ?? record.made.point ?? ""}: sensitivity ${share(point.sensitivity, point.positives)}, specificity ${share(point.specificity, point.negatives)}` : "no operating point of its own",
        finding.reason ? ` (${finding.reason})` : ""),
    ));
  }
  return panel;
}

function measurementsPanel(record, view) {
  const panel = make("div", { class: "panel" });
  const used = FIGURES.filter(([key]) => record.masks.some(mask => typeof mask[key] === "number"));
  const all = make("input", { type: "checkbox", id: "all-masks", checked: true, onchange: event => view.showAll(event.target.checked) });
  const only = make("input", { type: "checkbox", id: "only-mask", onchange: event => view.isolate(event.target.checked) });
  if (record.masks.length) panel.append(make("p", { class: "small pair" }, make("label", {}, all, " all masks"), make("label", {}, only, " only the one looked at")));
  for (const origin of Object.keys(ORIGINS)) {
    const masks = record.masks.filter(mask => mask.origin === origin);
    if (!masks.length) continue;
    const head = make("thead", {}, make("tr", {}, ...used.map(([, name, , unit]) => make("th", {}, name, make("small", {}, unit)))));
    const groups = masks.map(mask => make("tbody", { "data-mask": mask.id, tabindex: "0", onclick: () => view.select(mask.id) },
      make("tr", {}, make("td", { class: "name", colspan: used.length },
        make("input", {
          type: "checkbox", checked: true, "data-show": mask.id, "aria-label": `show ${mask.name}`,
          onclick: event => { event.stopPropagation(); view.show(mask.id, event.target.checked); },
        }), dot(mask.colour), mask.name, mask.mentioned === false ? make("span", { class: "quiet" }, " (not told in the report)") : null)),
      make("tr", {}, ...used.map(([key, , digits]) => make("td", {}, figure(mask[key], digits))))));
    panel.append(make("h2", {}, ORIGINS[origin]), make("table", {}, head, ...groups));
  }
  const without = record.answers.filter(answer => answer.mask === null);
  if (without.length) {
    panel.append(make("h2", {}, "Asked for, no mask"), ...without.map(answer =>
      make("p", { class: "small" }, `${answer.prompt} `, badge(answer.state), ` probability ${figure(answer.probability, 2)}`)));
  }
  if (record.masks.length) panel.append(make("p", { class: "quiet small" }, "Volumes and diameters on the source grid, SUVbw (g/ml) on the PET's own grid."));
  panel.append(make("h2", {}, "Images"), ...record.images.map(image => make("p", { class: "small" },
    `${image.kind.toUpperCase()}: ${[...image.shape].reverse().join(" \u00d7 ")} voxels of ${[...image.spacing_mm].reverse().map(v => v.toFixed(2)).join(" \u00d7 ")} mm`)),
    ...record.notes.map(note => make("p", { class: "small quiet" }, note)));
  const made = Object.entries(record.made).filter(([key]) => key !== "writer" && key !== "point");
  if (made.length) panel.append(make("p", { class: "small quiet" }, made.map(([key, value]) => `${key} ${value}`).join(", ")));
  return panel;
}
